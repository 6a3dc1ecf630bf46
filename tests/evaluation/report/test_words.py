"""What the report says in words and tables follows from the numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from chiasm.evaluation.comparison import answers_file, compare_evaluations
from chiasm.evaluation.report.display import compact, duration, listing, percent, points
from chiasm.evaluation.report.runs import Run, load_runs
from chiasm.evaluation.report.summary import above, failures, lede, trained, weakest
from chiasm.evaluation.report.tables import TableRow, facts, headline_rows, notes, recipe_differences
from chiasm.evaluation.result import Score, TaskResult
from tests.evaluation.report.fake_runs import score, write_run


def _task(name: str, *scores: Score) -> TaskResult:
    return TaskResult("probes", name, scores, "hash", 1.0)


def _runs(folder: Path, **tasks: list[TaskResult]) -> tuple[Run, ...]:
    return load_runs([write_run(folder / name, name, log=False, results=results) for name, results in tasks.items()])


def _one(value: float, low: float, high: float, **more: float) -> Score:
    return Score("accuracy", value, low, high, 100, 0.25, baselines=more)


@pytest.mark.parametrize(
    ("values", "best", "clear"),
    [
        ([(0.6, 0.55, 0.65), (0.5, 0.45, 0.54)], 0, True),
        ([(0.5, 0.45, 0.54), (0.6, 0.55, 0.65)], 1, True),
        ([(0.6, 0.5, 0.7), (0.55, 0.45, 0.65)], 0, False),
        ([(0.6, 0.55, 0.65), (0.6, 0.55, 0.65)], None, False),
        ([(0.6, 0.55, 0.65)], None, False),
    ],
)
def test_a_lead_is_clear_only_beyond_the_intervals(
    values: list[tuple[float, float, float]], best: int | None, clear: bool
) -> None:
    row = TableRow("task", "accuracy", "", tuple(_one(*value) for value in values), same=True)
    assert (row.best, row.clear) == (best, clear)


def test_verdicts(tmp_path: Path) -> None:
    runs = _runs(
        tmp_path,
        clip=[_task("a", _one(0.60, 0.55, 0.65)), _task("b", _one(0.60, 0.5, 0.7)), _task("c", _one(0.3, 0.2, 0.4))],
        siglip=[_task("a", _one(0.50, 0.45, 0.54)), _task("b", _one(0.55, 0.5, 0.6)), _task("c", _one(0.3, 0.2, 0.4))],
    )
    assert [row.verdict(runs) for row in headline_rows(runs)] == [
        "clip +10.0 over siglip",
        "no clear difference (+5.0, intervals overlap)",
        "equal",
    ]
    assert lede(runs, headline_rows(runs)) == (
        "clip and siglip (2.1M parameters each): clip is best on a (60.0%, 35.0 points above chance); no clear "
        "difference on b (60.0%, +35.0 over chance) and c (30.0%, not better than chance); "
        "not better than chance or a baseline: c."
    )


def test_kinds_at_chance_are_named(tmp_path: Path) -> None:
    kinds = {"colour": (0.9, 0.9), "count": (0.52, 0.51), "relation": (0.8, 0.53), "upside down": (0.1, 0.9)}

    def task(at: int) -> TaskResult:
        by_kind = [score("accuracy", values[at], 0.5, 200, kind) for kind, values in kinds.items()]
        return _task("probes", score("accuracy", 0.7, 0.5, 800), *by_kind)

    runs = _runs(tmp_path, clip=[task(0)], siglip=[task(1)])
    found = {failure.group: [index for index, _ in failure.scores] for failure in failures(runs)}
    assert found == {"count": [0, 1], "relation": [1], "upside down": [0]}
    words = "not better than chance or a baseline: count, relation for siglip and upside down for clip (probes)."
    assert lede(runs, headline_rows(runs)).endswith(words)
    good = _runs(tmp_path / "good", good=[_task("t", _one(0.9, 0.8, 1.0))])
    assert "every task and kind is better than chance and baselines" in lede(good, headline_rows(good))
    assert weakest(runs).group == "upside down"


def test_a_score_that_the_blind_model_reaches_is_pointed_out(tmp_path: Path) -> None:
    looks = _task("looks", _one(0.6, 0.55, 0.65, blind=0.30))
    guesses = _task("guesses", _one(0.6, 0.55, 0.65, blind=0.58))
    runs = _runs(tmp_path, clip=[looks, guesses], blip=[_task("guesses", _one(0.3, 0.22, 0.38, always_no=0.2))])
    (failure,) = failures(runs)
    assert failure.task == "guesses"
    assert (failure.floors, failure.floor_names) == (["25.0", "58.0"], "blind, chance")
    assert above(looks.headline) == "30.0 points above blind (30.0%)"
    assert above(guesses.headline) == "not better than blind (58.0%)"
    assert "guesses (60.0%, not better than blind)" in lede(runs, headline_rows(runs))


def test_a_lead_is_told_by_the_paired_test_that_compare_uses(tmp_path: Path) -> None:
    """Intervals that overlap widely, though one model is better in each item that differs; and the other way round."""
    right = {"clip": [True] * 60 + [False] * 40, "siglip": [True] * 52 + [False] * 48}
    runs = _runs(
        tmp_path,
        **{
            name: [_task("a", _one(np.mean(credit).item(), 0.4, 0.7)), _task("b", _one(0.6, 0.55, 0.65))]
            for name, credit in right.items()
        },
    )
    for name, credit in right.items():
        for task, values in (("a", credit), ("b", [*credit[1:], credit[0]] if name == "clip" else credit)):
            file = answers_file(tmp_path / name / "evaluation", task)
            file.parent.mkdir(exist_ok=True)
            record = {"sample": "s", "kind": "", "answer": ""}
            lines = [
                record | {"key": str(at), "sample": str(at), "credit": {"accuracy": float(value)}}
                for at, value in enumerate(values)
            ]
            file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = headline_rows(runs)
    known = binomtest(8, 8).pvalue  # scipy's sign test on the eight items that differ
    compared = compare_evaluations(tmp_path / "clip" / "evaluation", tmp_path / "siglip" / "evaluation")
    assert [row.lead.p if row.lead else None for row in found] == [task.adjusted for task in compared.tasks]
    assert found[0].lead is not None
    assert found[0].lead.p == pytest.approx(2 * known)  # two tasks, by Holm
    assert found[0].verdict(runs) == "clip +8.0 over siglip (p = 0.016)"
    assert found[1].verdict(runs) == "equal"


def test_recipes_are_compared_by_key(tmp_path: Path) -> None:
    clip, siglip = write_run(tmp_path / "a", "a"), write_run(tmp_path / "b", "b", loss="sigmoid")
    (tmp_path / "a" / "recipe.yaml").write_text("name: a\nmodel: {width: 8}\nseed: 0\nevaluation: [{task: x, k: 1}]\n")
    (tmp_path / "b" / "recipe.yaml").write_text("name: b\nmodel: {width: 9}\nseed: 0\nevaluation: [{task: x, k: 2}]\n")
    differences = recipe_differences(load_runs([clip, siglip]))
    assert [(one.name, one.values) for one in differences] == [
        ("model.width", ("8", "9")),
        ("evaluation[0].k", ("1", "2")),
    ]


def test_training_facts_come_from_the_log(tmp_path: Path) -> None:
    (run,) = load_runs([write_run(tmp_path / "a", "clip-small")])
    told = {fact.name: fact.values for fact in facts([run])}
    assert told["parameters"] == ("2,104,833",)
    assert told["samples seen"] == ("76,800",)
    assert told["training time"] == ("1 min 36 s",)
    assert told["samples a second (median)"] == ("800",)
    assert trained(run) == "clip, 2.1M parameters, 76.8k samples seen, trained in 1 min 36 s"
    assert notes(run) == []


def test_what_went_wrong_in_training_is_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", "a")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "without_gradient": ["text.a", "text.b"]}\n')
        file.write('{"step": 7, "skipped_step": "{}", "gradient_norm": "inf"}\n')
    (run,) = load_runs([folder])
    assert len(run.log.steps) == 600
    skipped, dead = notes(run)
    assert skipped == "steps skipped because a loss or gradient was not finite: 1"
    assert dead == "no gradient reached text.a, text.b in the first step"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (percent(0.6421), "64.2"),
        (percent(1 / 1000), "0.10"),
        (percent(1.0), "100.0"),
        (percent(0.0), "0.0"),
        (percent(0.00996), "1.0"),
        (percent(float("nan")), "n/a"),
        (points(0.051), "+5.1"),
        (points(-0.051), "\N{MINUS SIGN}5.1"),
        (compact(2_104_833), "2.1M"),
        (compact(999_900), "1M"),
        (compact(51_200), "51.2k"),
        (duration(4.21), "4.2 s"),
        (duration(59.7), "1 min"),
        (duration(95), "1 min 35 s"),
        (duration(7384), "2 h 3 min"),
        (listing(["a", "b", "c"]), "a, b and c"),
        (listing(["a"]), "a"),
    ],
)
def test_numbers_are_written_one_way(written: str, expected: str) -> None:
    assert written == expected
