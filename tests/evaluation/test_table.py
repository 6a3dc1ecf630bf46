from dataclasses import replace
from io import StringIO

from rich.console import Console

from chiasm.evaluation.result import Evaluation, Score, TaskResult
from chiasm.evaluation.table import table

SCORE = Score("accuracy", 0.75, 0.7, 0.8, 400, 0.5, baselines={"blind": 0.611}, ties=0.02, failed=3)


def printed(*evaluations: Evaluation) -> str:
    console = Console(width=160, record=True, file=StringIO())
    console.print(table(evaluations))
    return console.export_text()


def evaluation(name: str, *scores: Score) -> Evaluation:
    return Evaluation({"name": name}, (TaskResult("pairs", "pairs", scores, "p", 1.0),))


def test_models_stand_side_by_side_where_the_data_are_the_same() -> None:
    shown = printed(
        evaluation("one", SCORE, replace(SCORE, group="colour", value=0.9)),
        evaluation("two", replace(SCORE, value=0.55)),
    )
    (line,) = [line for line in shown.splitlines() if "accuracy" in line]
    for part in ("50.0", "75.0 ±5.0 (3 failed, 2.0% tied)", "61.1", "55.0 ±"):
        assert part in line
    assert "pairs (400 items)" in shown
    (kind,) = [line for line in shown.splitlines() if "colour" in line]
    assert "90.0" in kind
    assert "55.0" not in kind


def test_other_data_are_another_row() -> None:
    shown = printed(evaluation("one", SCORE), evaluation("two", replace(SCORE, items=300, value=0.55)))
    first, second = [line for line in shown.splitlines() if "accuracy" in line]
    assert "75.0" in first
    assert "55.0" not in first
    assert "55.0" in second
