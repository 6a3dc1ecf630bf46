"""The data of every plot, apart from its drawing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from chiasm.evaluation.report.display import words_of
from chiasm.evaluation.report.runs import Run, Series, XAxis, metrics, task_names
from chiasm.evaluation.result import Score

_ROWS = 24  # kinds in one plot


@dataclass(frozen=True)
class DotRow:
    """One line of a dot plot: a kind of items, the chance level there, and each run's score (None: not measured)."""

    label: str
    chance: float
    scores: tuple[Score | None, ...]


@dataclass(frozen=True)
class DotPanel:
    """Scores of one task as dots with intervals, beside chance. main: shown at once, not folded away."""

    task: str
    title: str
    rows: tuple[DotRow, ...]
    note: str = ""
    main: bool = True

    @property
    def limit(self) -> float:
        """The right end of the axis: 1, unless all scores crowd at the left end or some go beyond."""
        seen = [value for row in self.rows for score in row.scores if score for value in (score.high, row.chance)]
        top = max((value for value in seen if np.isfinite(value)), default=1.0)
        return next((limit for limit in (0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0) if top <= limit), 10.0)


@dataclass(frozen=True)
class Line:
    """One run's curve. smooth: a mean over neighbours, or the values themselves where they are few."""

    run: int
    name: str
    raw: Series
    smooth: NDArray[np.float64]


@dataclass(frozen=True)
class LinePanel:
    """Curves of several runs. by: what they are drawn against.

    share: y is a share of right answers, 0 to 1. log_scale: a straight y axis would flatten the end of training.
    """

    title: str
    lines: tuple[Line, ...]
    share: bool = False
    chance: float | None = None
    log_scale: bool = False
    by: XAxis = "samples"


def dot_panels(runs: Sequence[Run]) -> tuple[DotPanel, ...]:
    """For each task: its figures over all items, where there are several, then each figure by kind of item."""
    panels = []
    for task in task_names(runs):
        pairs = metrics(runs, task)
        overall = [name for name, group in pairs if not group]
        if len(overall) > 1:
            rows = tuple(_row(runs, task, name, "", label=name) for name in overall)
            panels.append(DotPanel(task, f"{task}: all items", rows))
        grouped = list(dict.fromkeys(name for name, group in pairs if group))
        first = grouped[0] if grouped else ""
        for name in grouped:
            groups = [group for metric, group in pairs if metric == name and group]
            rows = tuple(_row(runs, task, name, group, label=words_of(group)) for group in groups)
            shown, note = shortened(ordered(rows))
            panels.append(DotPanel(task, f"{task}: {name} by kind", shown, note, main=name == first))
    return tuple(panels)


def shortened(rows: tuple[DotRow, ...]) -> tuple[tuple[DotRow, ...], str]:
    """The rows, or the ends of them where they are too many for a plot, and a note on what was left out."""
    if len(rows) <= _ROWS:
        return rows, ""
    by_margin = sorted(rows, key=_margin, reverse=True)
    best = _ROWS // 3
    worst = _ROWS - best
    return (*by_margin[:best], *by_margin[-worst:]), f"the {best} best and {worst} worst of {len(rows)}"


def ordered(rows: tuple[DotRow, ...]) -> tuple[DotRow, ...]:
    """Numbered kinds by their number; others from the best margin over the floor to the worst."""
    numbers = [re.findall(r"\d+", row.label) for row in rows]
    if rows and all(len(found) == 1 for found in numbers):
        by_number = sorted(range(len(rows)), key=lambda i: int(numbers[i][0]))
        return tuple(rows[i] for i in by_number)
    return tuple(sorted(rows, key=_margin, reverse=True))


def loss_panels(runs: Sequence[Run], by: XAxis = "samples") -> tuple[LinePanel, ...]:
    """One panel for each named loss; the weighted sum too where a run has several."""
    names = list(dict.fromkeys(name for run in runs for name in run.log.loss_names))
    panels = [_line_panel(runs, f"{name} loss", ("losses", name), by) for name in names]
    if any(len(run.log.loss_names) != 1 for run in runs if run.log.steps):
        panels.insert(0, _line_panel(runs, "training loss", ("loss",), by))
    panels = [panel for panel in panels if panel.lines]
    log_scale = any(_spans_much(panel) for panel in panels)  # one scale for all, so that shapes compare
    return tuple(replace(panel, log_scale=log_scale) for panel in panels)


def course_panels(runs: Sequence[Run], by: XAxis = "samples") -> tuple[LinePanel, ...]:
    """What else the loop logged, in small panels: how the optimiser was driven, and what the models watch."""
    watched = dict.fromkeys(name for run in runs for name in run.log.watched_names)
    panels = (
        _line_panel(runs, "learning rate", ("learning_rate",), by, smooth=False),
        _line_panel(runs, "gradient norm", ("gradient_norm",), by),
        _line_panel(runs, "samples a second", ("samples_per_second",), by),
        _line_panel(runs, "share of the matrix peak", ("matrix_share",), by, share=True),
        *(_line_panel(runs, name.lstrip("_").replace("_", " "), ("losses", name), by) for name in watched),
    )
    return tuple(panel for panel in panels if panel.lines)


def progress_panels(runs: Sequence[Run], by: XAxis = "samples") -> tuple[LinePanel, ...]:
    """What was evaluated during training: one small panel a figure."""
    chances = {
        f"{task}: {score.name}": score.chance
        for run in runs
        for task, result in run.results.items()
        for score in result.scores
        if not score.group
    }
    panels = []
    for name in dict.fromkeys(name for run in runs for name in run.log.evaluated_names):
        found = ((run, run.log.evaluated(name, by)) for run in runs)
        lines = tuple(Line(run.index, run.name, series, series.y) for run, series in found if len(series.x))
        if lines:
            share = all(0 <= value <= 1 for line in lines for value in line.raw.y)
            panels.append(LinePanel(name, lines, share, chances.get(name), by=by))
    return tuple(panels)


def smoothed(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """The mean over a centred window of `window` values (odd).

    At the start it shrinks evenly, for there a loss falls fast; at the end only its right half does, so that the
    last value is a mean too.
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    left = np.minimum(window // 2, at)
    right = np.minimum(left, len(values) - 1 - at)
    return (sums[at + right + 1] - sums[at - left]) / (left + right + 1)


def _line_panel(
    runs: Sequence[Run], title: str, path: tuple[str, ...], by: XAxis, *, smooth: bool = True, share: bool = False
) -> LinePanel:
    lines = []
    for run in runs:
        series = run.log.series(*path, by=by)
        if len(series.x):
            window = 2 * (len(series.y) // 30) + 1 if smooth else 1  # about a fifteenth of the run
            lines.append(Line(run.index, run.name, series, smoothed(series.y, window)))
    return LinePanel(title, tuple(lines), share, by=by)


def _spans_much(panel: LinePanel) -> bool:
    values = np.concatenate([line.smooth for line in panel.lines])
    return bool(values.min() > 0 and values.max() > 20 * values.min())


def _row(runs: Sequence[Run], task: str, metric: str, group: str, label: str) -> DotRow:
    scores = tuple(run.score(task, metric, group) for run in runs)
    return DotRow(label, next(score.chance for score in scores if score), scores)


def _margin(row: DotRow) -> float:
    return max(score.value - score.floor[1] for score in row.scores if score)
