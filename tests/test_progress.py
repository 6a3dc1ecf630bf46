"""Bars on one line at any width, and a line a tenth in a log."""

import io

import pytest
from rich.console import Console

from chiasm.progress import Bars, fitting

FIGURES = ["loss 5.467", "0:02:02 left", "274 samples/s", "0.7 GB", "30% of the matrix peak"]


@pytest.mark.parametrize("total", [400, 1_000_000])
@pytest.mark.parametrize(("width", "least"), [(60, 2), (80, 3), (120, 5)])
def test_a_bar_takes_one_line_and_shows_what_fits(width: int, least: int, total: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    bars = Bars(console)
    bars.add_task("siglip-scenes", total=total, completed=total // 2, figures=FIGURES)
    with console.capture() as shown:
        console.print(bars.get_renderable())
    (line,) = shown.get().splitlines()
    assert len(line.rstrip()) <= width
    assert f"{total // 2}/{total}" in line
    assert line.rstrip().endswith(tuple(FIGURES))  # none is cut
    if total == 400:
        assert all(figure in line for figure in FIGURES[:least])


def test_bars_of_several_tasks_stay_on_a_line_each() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60, color_system=None)
    bars = Bars(console)
    for name in ("images", "replies, 12 requests, $0.01"):
        bars.add_task(name, total=5000, completed=3)
    bars.add_task("[unseen]", total=5000, visible=False)
    with console.capture() as shown:
        console.print(bars.get_renderable())
    assert [line.split()[0] for line in shown.get().splitlines()] == ["images", "replies,"]


def test_a_log_has_a_whole_line_a_tenth() -> None:
    console = Console(file=io.StringIO(), width=40)
    with Bars(console, pause=0) as bars:
        task = bars.add_task("[clip]", total=50, completed=20)
        for step in range(21, 51):
            assert bars.due(task, step) == (step % 5 == 0)
            bars.update(task, completed=step, figures=FIGURES)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        f"[clip]  {step}/50  {'  '.join(FIGURES)}" for step in range(25, 51, 5)
    ]


def test_what_takes_a_moment_leaves_no_lines_in_a_log() -> None:
    console = Console(file=io.StringIO())
    with Bars(console, pause=60) as bars, Bars(console, pause=0, shown=False) as unseen:
        for each in (bars, unseen):
            each.advance(each.add_task("images", total=2), 2)
    assert isinstance(console.file, io.StringIO)
    assert not console.file.getvalue()


def test_figures_that_do_not_fit_are_left_out() -> None:
    assert fitting(["loss 1", "漢字"], 12) == "loss 1  漢字"
    assert fitting(["loss 1", "漢字", "x"], 11) == "loss 1"
    assert fitting([], 3) == ""
