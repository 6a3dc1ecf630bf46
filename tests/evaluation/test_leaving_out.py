"""Tasks that a model lacks the verb for: an error unless it is said to leave them out, and then told everywhere."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from chiasm.cli import main
from chiasm.errors import CapabilityError, DataError
from chiasm.evaluation.comparison import compare_evaluations
from chiasm.evaluation.report import write_report
from chiasm.evaluation.report.runs import load_runs
from chiasm.evaluation.report.summary import lede
from chiasm.evaluation.report.tables import headline_rows
from chiasm.evaluation.request_runner import DEFAULT_OPTIONS
from chiasm.evaluation.result import Evaluation
from chiasm.evaluation.run import ask, check, evaluate, quick_scores
from chiasm.evaluation.table import table
from chiasm.evaluation.task import Task
from chiasm.evaluation.tasks.captioning import Captioning
from chiasm.evaluation.tasks.grounding import Grounding
from chiasm.evaluation.tasks.pairs import Pairs
from tests.evaluation.fakes import Echo, HashEmbedder, world
from tests.evaluation.test_grounding import WORLD
from tests.evaluation.test_open_ended import questions_task
from tests.evaluation.test_run import NumberAsked, unseconded

LACK = "needs a model that can generate, but HashEmbedder can only embed"


def of_all_verbs() -> list[Task]:
    """One that an embedder can be asked, among three that it cannot."""
    return [Captioning(world(4), metrics=("ROUGE-L",)), Pairs(world(4)), questions_task(), Grounding(WORLD)]


def of_words() -> list[Task]:
    return [Pairs(world(4)), NumberAsked(world(4), name="numbers")]


def left(folder: Path, name: str = "clip") -> Evaluation:
    about = {"name": name}
    return evaluate(HashEmbedder(), of_all_verbs(), folder, about=about, leave_out=True, progress=False)


def spoken(folder: Path) -> Evaluation:
    about = {"name": "chat"}
    return evaluate(Echo(), of_words(), folder, about=about, leave_out=True, progress=False)


def test_by_default_nothing_is_asked_and_nothing_written(tmp_path: Path) -> None:
    model = HashEmbedder()
    for refused in (evaluate, ask):
        with pytest.raises(CapabilityError, match=rf"task 'captioning' {LACK}; leave the task out \(`chiasm eval --l"):
            refused(model, of_all_verbs(), tmp_path / "run", progress=False)
    for quick in (check, quick_scores):
        with pytest.raises(CapabilityError, match=LACK):
            quick(model, of_all_verbs(), options=DEFAULT_OPTIONS)
    assert not model.pictures + model.texts
    assert not (tmp_path / "run").exists()


def test_what_is_left_is_scored_as_if_alone_and_the_results_say_what_is_not(tmp_path: Path) -> None:
    found = left(tmp_path / "some")
    alone = evaluate(HashEmbedder(), [Pairs(world(4))], tmp_path / "alone", progress=False)
    assert unseconded(found) == unseconded(alone)
    assert found.left_out == {"captioning": LACK, "vqa": LACK, "grounding": LACK}
    assert Evaluation.load(tmp_path / "some") == found
    assert alone.left_out == {}


def test_a_model_that_can_be_asked_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CapabilityError, match=f"task 'vqa' {LACK}; no task is left or choose another model"):
        evaluate(HashEmbedder(), [questions_task()], tmp_path, leave_out=True, progress=False)


def test_one_table_holds_both_sorts(tmp_path: Path) -> None:
    console = Console(width=200, record=True, file=StringIO())
    console.print(table([left(tmp_path / "clip"), spoken(tmp_path / "chat")]))
    shown = console.export_text()
    lines = [line.split() for line in shown.splitlines()]
    assert ["numbers", "(4", "items)"] in lines  # the embedder was never to be asked these
    assert ["pairs", "(8", "items)", "left", "out"] in lines
    told = " ".join(shown.split())
    for task in ("captioning", "vqa", "grounding"):
        assert f"{task} was left out for clip: it {LACK}" in told
    assert "pairs was left out for chat: it needs a model that can embed or score, but Echo can only generate" in told
    assert [line[0] for line in lines if line[1:] == ["left", "out"]] == ["captioning", "vqa", "grounding"]
    assert "left out" not in str(table([evaluate(Echo(), of_words()[1:], tmp_path / "x", progress=False)]).caption)


def test_models_that_do_not_fit_side_by_side_stand_under_each_score(tmp_path: Path) -> None:
    evaluations = [left(tmp_path / "clip"), spoken(tmp_path / "chat")]
    wide = Console(width=200, record=True, file=StringIO())
    wide.print(table(evaluations, width=200))
    assert wide.export_text().count("chat ") == 1, "a column where there is room"
    for width in (60, 80):
        console = Console(width=width, record=True, file=StringIO())
        console.print(table([*evaluations, *evaluations], width=width))
        lines = [line.rstrip() for line in console.export_text().splitlines()]
        assert max(map(len, lines)) <= width
        assert not any("…" in line for line in lines), lines
        at = next(at for at, line in enumerate(lines) if line.strip() == "pairs (8 items)")
        assert [line.split()[0] for line in lines[at + 1 : at + 4]] == ["accuracy", "clip", "clip"]
        score = evaluations[0].results[0].headline
        assert f"{100 * score.value:.1f} ±" in lines[at + 2]
        assert lines[at + 2].split()[-1] == f"{100 * score.baselines['blind']:.1f}"


def test_the_report_tells_it(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    left(folders[0] / "evaluation")
    spoken(folders[1] / "evaluation")
    page = write_report(folders, tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"it {LACK}.</p>" in page
    assert page.count("was left out for") == 4
    assert page.count("</span> left out</td>") == 1  # pairs, of the chat model
    assert page.count("</span> not evaluated</td>") == 1  # numbers, of the embedder
    runs = load_runs(folders)
    told = lede(runs, headline_rows(runs))
    assert told.endswith("left out: captioning, vqa and grounding for clip, pairs for chat.")


class Both(HashEmbedder, Echo):
    """Embeds, and replies too."""


def test_compare_says_why_it_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = tmp_path / "a", tmp_path / "b"
    left(paths[0] / "evaluation")
    whole = evaluate(Both(seed=1), of_all_verbs(), paths[1] / "evaluation", about={"name": "all"}, progress=False)
    assert len(whole.results) == 4
    for first, second in (paths, paths[::-1]):
        found = compare_evaluations(first / "evaluation", second / "evaluation")
        assert [one.task for one in found.tasks] == ["pairs"]
        told = [f"task '{task}' was left out for clip: it {LACK}" for task in ("captioning", "vqa", "grounding")]
        assert list(found.refused) == told
    with pytest.raises(DataError, match="task 'vqa' was left out for clip: it needs a model that can generate"):
        compare_evaluations(paths[0] / "evaluation", paths[1] / "evaluation", ["vqa"])
    assert main(["compare", *map(str, paths)]) == 0
    assert f"not compared: task 'grounding' was left out for clip: it {LACK}" in capsys.readouterr().out
    left(paths[1] / "evaluation", "other")
    assert compare_evaluations(paths[0] / "evaluation", paths[1] / "evaluation").refused == ()
