"""Run folders and pictures, whole and broken."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from chiasm.data.image import Image
from chiasm.errors import ChiasmError
from chiasm.evaluation.report.examples import data_uri, galleries
from chiasm.evaluation.report.runs import load_runs, read_log
from chiasm.evaluation.result import Candidate, Example, TaskResult, TextOrImage
from tests.evaluation.report.fake_runs import KINDS, score, write_run


def _log(folder: Path, *lines: object, end: str = "\n") -> Path:
    file = folder / "metrics.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines) + end)
    return file


def test_a_resumed_run_counts_each_step_once(tmp_path: Path) -> None:
    steps = [{"step": step, "samples": 10 * step, "loss": loss} for step, loss in ((1, 3.0), (2, 9.0), (2, 2.0))]
    log = read_log(_log(tmp_path, *steps, {"step": 2, "evaluation": {"a": 0.5}}, {"step": 2, "evaluation": {"a": 0.6}}))
    assert log.series("loss").y.tolist() == [3.0, 2.0]
    assert log.evaluated("a").x.tolist() == [20.0]
    assert log.evaluated("a").y.tolist() == [0.6]


def test_losses_that_are_not_finite_leave_a_gap(tmp_path: Path) -> None:
    steps = [{"step": n, "samples": n, "loss": loss} for n, loss in ((1, 3.0), (2, float("nan")), (3, 2.0))]
    series = read_log(_log(tmp_path, *steps)).series("loss")
    assert (series.x.tolist(), series.y.tolist()) == ([1, 3], [3, 2])


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    file = _log(tmp_path, {"step": 1, "samples": 10, "loss": 3.0})
    file.write_text(file.read_text() + '{"step": 2, "samp')
    assert len(read_log(file).steps) == 1


@pytest.mark.parametrize("line", ["{broken", "[1, 2]", '{"loss": 1.0}'])
def test_a_broken_log_names_its_line(line: str, tmp_path: Path) -> None:
    file = _log(tmp_path, {"step": 1, "loss": 3.0})
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(ChiasmError, match=r"metrics\.jsonl, line 2: .*remove the line"):
        read_log(file)


def test_a_broken_recipe_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "a")
    (run / "recipe.yaml").write_text("a: [")
    with pytest.raises(ChiasmError, match=r"recipe\.yaml is not YAML"):
        load_runs([run])


def test_results_without_scores_are_an_error(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "a", results=[TaskResult("probes", "t", (), "hash", 1.0)])
    with pytest.raises(ChiasmError, match="holds no score"):
        load_runs([run])


def test_models_of_the_same_name_go_by_their_folders(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / folder, "clip") for folder in ("x/first", "x/second", "y/first")]
    assert [run.name for run in load_runs(runs[:2])] == ["first", "second"]
    assert len({run.name for run in load_runs(runs)}) == 3


def test_thumbnails_are_small_and_hold_only_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (600, 900, 3), np.uint8)
    exif = PIL.Image.Exif()
    exif[0x010E] = "where I live"
    PIL.Image.fromarray(pixels).save(tmp_path / "big.jpg", exif=exif)
    content = base64.b64decode(data_uri(Image(tmp_path / "big.jpg")).partition(",")[2])
    assert b"where I live" not in content
    with PIL.Image.open(io.BytesIO(content)) as small:
        assert small.size == (192, 128)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("../../../secret.jpg", "leads out"), ("/etc/passwd", "leads out"), ("missing.jpg", "cannot read|no picture")],
)
def test_pictures_come_from_the_pictures_folder_alone(name: str, complaint: str, tmp_path: Path) -> None:
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "secret.jpg")
    example = Example("key", right=True, query=TextOrImage(picture=name), candidates=())
    result = TaskResult("probes", "t", (score("accuracy", 0.5, 0.5, 10),), "hash", 1.0, (example,))
    runs = load_runs([write_run(tmp_path / "run", "a", results=[result])])
    with pytest.raises(ChiasmError, match=complaint):
        galleries(runs)


def _example(key: str, *scores: float, true: int = 0, group: str = "", right: bool = False) -> Example:
    candidates = [Candidate(TextOrImage(text=f"{key} {n}"), value, n == true) for n, value in enumerate(scores)]
    return Example(key, right, TextOrImage(text=key), tuple(sorted(candidates, key=lambda one: -one.score)), group)


def _gallery(folder: Path, **examples: list[Example]) -> list[tuple[str, str]]:
    folders = []
    for name, kept in examples.items():
        result = TaskResult("probes", "t", (score("accuracy", 0.5, 0.5, 10),), "hash", 1.0, tuple(kept))
        folders.append(write_run(folder / name, name, log=False, results=[result]))
    (gallery,) = galleries(load_runs(folders))
    return [(card.key, card.outcome) for card in gallery.cards]


def test_failures_come_first_and_the_widest_miss_leads(tmp_path: Path) -> None:
    near, far = _example("near", 0.4, 0.5), _example("far", 0.1, 0.9)
    cards = _gallery(tmp_path, a=[_example("good", 0.9, 0.1, right=True), near, far])
    assert cards == [("far", "wrong"), ("near", "wrong"), ("good", "right")]


def test_items_are_laid_side_by_side(tmp_path: Path) -> None:
    right, wrong = _example("x", 0.9, 0.1, right=True), _example("x", 0.1, 0.9)
    assert _gallery(tmp_path, a=[right], b=[wrong]) == [("x", "split")]


def test_two_questions_of_one_key_are_two_cards(tmp_path: Path) -> None:
    first = _example("x", 0.1, 0.9)
    second = Example("x", right=False, query=TextOrImage(text="another"), candidates=first.candidates)
    assert _gallery(tmp_path, a=[first, second], b=[first, second]) == [("x", "wrong"), ("x", "wrong")]


def test_every_kind_gets_its_place(tmp_path: Path) -> None:
    many = [_example(f"many {n}", 0.0, 1.0, group="many") for n in range(30)]
    few = [_example(f"{kind} 1", 0.4, 0.5, group=kind) for kind in KINDS]
    keys = [key for key, _ in _gallery(tmp_path, a=many + few)]
    assert len(keys) == 8
    assert {f"{kind} 1" for kind in KINDS} <= set(keys)


def test_a_late_right_answer_is_shown_too(tmp_path: Path) -> None:
    scores = [0.0, *(1 - n / 10 for n in range(7))]
    result = TaskResult("t", "t", (score("R@1", 0.5, 0.1, 9),), "h", 1.0, (_example("x", *scores),))
    (gallery,) = galleries(load_runs([write_run(tmp_path / "a", "a", results=[result])]))
    options = gallery.cards[0].answers[0].options
    assert [option.true for option in options] == [False] * 5 + [True]
    assert [round(option.width) for option in options] == [100, 90, 80, 70, 60, 0]
    assert options[0].score == "1.00"
