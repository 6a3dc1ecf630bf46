"""What is plotted is where it should be, and in colours that the page decides."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.evaluation.report.panels import (
    DotPanel,
    DotRow,
    course_panels,
    dot_panels,
    loss_panels,
    ordered,
    progress_panels,
    shortened,
    smoothed,
)
from chiasm.evaluation.report.plots import Drawing, apart, draw_dots, draw_lines
from chiasm.evaluation.report.runs import load_runs
from chiasm.evaluation.result import TaskResult
from tests.evaluation.report.fake_runs import KINDS, probes, score, write_run

_LINE = re.compile(r"M ([\d.]+) ([\d.]+)\s+L ([\d.]+) ([\d.]+)\s*$")


def _lines(drawing: Drawing, colour: str) -> list[tuple[float, float, float, float]]:
    """Ends (x0, y0, x1, y1) of the straight lines in a colour."""
    root = ElementTree.fromstring(f"<svg>{drawing.svg}</svg>")
    found = []
    for path in root.iter("path"):
        ends = _LINE.match(path.get("d", "").strip())
        if ends and f"stroke: var(--{colour})" in path.get("style", ""):
            found.append(tuple(float(end) for end in ends.groups()))
    return found  # type: ignore[return-value]  # four groups


def test_chance_ticks_and_intervals_stand_at_their_values() -> None:
    rows = tuple(
        DotRow(f"kind {chance}", chance, (score("accuracy", value, chance, 400), None))
        for chance, value in ((0.25, 0.9), (0.5, 0.6), (0.125, 0.2))
    )
    drawing = draw_dots(DotPanel("task", "title", rows), "plot")
    grid = sorted(x0 for x0, y0, x1, y1 in _lines(drawing, "rule") if x0 == x1 and y0 != y1)
    zero, one = grid[0], grid[-1]  # 0% and 100%
    ticks = [x0 for x0, _, x1, _ in _lines(drawing, "muted") if x0 == x1]
    assert ticks == pytest.approx([zero + row.chance * (one - zero) for row in rows], abs=0.01)
    spans = [(x0, x1) for x0, y0, x1, y1 in _lines(drawing, "model-0") if y0 == y1]
    expected = [(zero + s.low * (one - zero), zero + s.high * (one - zero)) for row in rows for s in row.scores if s]
    assert np.array(spans) == pytest.approx(np.array(expected), abs=0.01)


def test_marks_at_chance_are_hollow() -> None:
    def fills(value: float) -> list[str]:
        row = DotRow("kind", 0.5, (score("accuracy", value, 0.5, 100),))
        return re.findall(r"<use [^>]*fill: var\((--[\w-]+)\)", draw_dots(DotPanel("t", "t", (row,)), "p").svg)

    assert fills(0.9) == ["--model-0"]
    assert fills(0.55) == ["--paper"]
    assert fills(0.2) == ["--paper"]


def test_axis_ends_where_low_scores_can_be_told_apart() -> None:
    def limit(value: float) -> float:
        return DotPanel("t", "t", (DotRow("all", 0.001, (score("R@1", value, 0.001, 1000),)),)).limit

    assert limit(0.02) == 0.05
    assert limit(0.2) == 0.25
    assert limit(0.6) == 1.0


def test_panels_of_each_task(tmp_path: Path) -> None:
    runs = load_runs([write_run(tmp_path / "a", "a"), write_run(tmp_path / "b", "b", skill=1.1, seed=1)])
    by_kind, overall = dot_panels(runs)
    assert by_kind.title == "scene probes: accuracy by kind"
    assert {row.label for row in by_kind.rows} == set(KINDS)
    assert [row.scores[0].value for row in by_kind.rows if row.scores[0]] == sorted(KINDS.values(), reverse=True)
    assert [row.label for row in overall.rows] == [
        "image to text R@1",
        "image to text R@5",
        "text to image R@1",
        "text to image R@5",
    ]
    assert overall.rows[1].chance == 5 / 256


def test_numbered_kinds_keep_their_order() -> None:
    rows = tuple(DotRow(label, 0.1, (score("a", 0.5, 0.1, 10),)) for label in ("10 cubes", "2 cubes", "1 cube"))
    assert [row.label for row in ordered(rows)] == ["1 cube", "2 cubes", "10 cubes"]


def test_many_kinds_are_cut_to_both_ends() -> None:
    rows = tuple(DotRow(f"class {'x' * n}", 0.01, (score("a", n / 100, 0.01, 10),)) for n in range(1, 91))
    kept, note = shortened(rows)
    values = [row.scores[0].value for row in kept if row.scores[0]]
    assert values == sorted(values, reverse=True)
    assert (len(kept), max(values), min(values)) == (24, 0.9, 0.01)
    assert note == "the 8 best and 16 worst of 90"


def test_curves_run_over_samples_and_evaluations_are_placed_on_them(tmp_path: Path) -> None:
    runs = load_runs([write_run(tmp_path / "a", "a"), write_run(tmp_path / "b", "b", seed=1, loss="sigmoid")])
    contrastive, sigmoid = loss_panels(runs)
    assert [line.name for line in contrastive.lines] == ["a"]
    assert [line.name for line in sigmoid.lines] == ["b"]
    assert contrastive.lines[0].raw.x[[0, -1]].tolist() == [128, 600 * 128]
    recall, accuracy = progress_panels(runs)
    assert recall.lines[0].raw.x.tolist() == [100 * 128 * k for k in range(1, 7)]
    assert (recall.chance, accuracy.chance) == (1 / 256, 0.5)
    course = ["learning rate", "gradient norm", "samples a second", "temperature"]
    assert [panel.title for panel in course_panels(runs)] == course
    by_step, _ = loss_panels(runs, "step")
    assert by_step.lines[0].raw.x[[0, -1]].tolist() == [1, 600]
    assert [line.raw.x.tolist() for line in progress_panels(runs, "step")[0].lines[:1]] == [
        [100 * k for k in range(1, 7)]
    ]


def test_smoothing_keeps_lines_straight_and_evens_out_noise() -> None:
    line = np.linspace(3, 1, 50)
    assert smoothed(line, 9)[:46] == pytest.approx(line[:46])
    noise = np.random.default_rng(0).normal(size=2000)
    assert smoothed(noise, 101)[100:-100].std() == pytest.approx(0.1, rel=0.5)
    assert smoothed(noise, 1) == pytest.approx(noise)
    assert smoothed(np.array([1.0, 1.0, 4.0]), 3)[-1] == 2.5


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_labels_are_clear_of_each_other(wanted: list[float]) -> None:
    placed = apart(wanted, 0.1)
    by_wish = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gaps = np.diff([placed[i] for i in by_wish])
    assert (gaps >= 0.1 - 1e-9).all()
    assert np.mean(placed) == pytest.approx(np.mean(wanted))
    if len(wanted) > 1 and np.diff(sorted(wanted)).min() >= 0.1:
        assert placed == wanted


def test_only_the_page_decides_on_colours_and_fonts(tmp_path: Path) -> None:
    runs = load_runs([write_run(tmp_path / str(at), f"model <{at}>", seed=at) for at in range(8)])
    drawings = [draw_dots(panel, "a") for panel in dot_panels(runs)]
    drawings += [draw_lines(panel, "b") for panel in (*loss_panels(runs), *progress_panels(runs))]
    for drawing in drawings:
        ElementTree.fromstring(f"<svg>{drawing.svg}</svg>")
        assert not re.search(r"#[0-9a-fA-F]{6}\b|rgb\(|DejaVu|<style|<metadata", drawing.svg)


def test_names_that_look_like_markup_stay_names() -> None:
    label = 'id="a" #010101 $x$ 図'
    row = DotRow(label, 0.5, (score("accuracy", 0.9, 0.5, 100),))
    root = ElementTree.fromstring(f"<svg>{draw_dots(DotPanel('t', 't', (row,)), 'p').svg}</svg>")
    assert label in "".join(root.itertext())


def test_the_same_data_gives_the_same_picture(tmp_path: Path) -> None:
    runs = load_runs([write_run(tmp_path / "a", "a")])
    panel = dot_panels(runs)[0]
    assert draw_dots(panel, "p") == draw_dots(panel, "p")


def test_a_score_that_is_no_number_is_left_out() -> None:
    odd = score("accuracy", 0.6, 0.5, 10)
    odd = type(odd)("accuracy", float("nan"), float("nan"), float("nan"), 0, 0.5)
    drawing = draw_dots(DotPanel("t", "t", (DotRow("kind", 0.5, (odd,)),)), "p")
    assert "nan" not in drawing.svg.lower()


def test_a_task_with_one_figure_has_no_plot(tmp_path: Path) -> None:
    lone = TaskResult("probes", "lone", (score("accuracy", 0.7, 0.5, 10),), "hash", 1.0)
    runs = load_runs([write_run(tmp_path / "a", "a", results=[lone, probes(1.0, 0, None)])])
    assert [panel.task for panel in dot_panels(runs)] == ["scene probes"]
