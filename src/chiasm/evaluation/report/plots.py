"""Plots as SVG for an HTML page. One unit of a plot is one pixel, so that its text is as large as the page's."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from chiasm.errors import MissingExtra
from chiasm.evaluation.report.display import compact, percent
from chiasm.evaluation.report.panels import DotPanel, DotRow, Line, LinePanel
from chiasm.evaluation.report.theme import GRID, INK, MUTED, PAPER, colour, marker, themed

WIDTH = 500  # pixels, of a plot that a phone can show without shrinking its text too far
_SLOT = 15  # pixels, the height of one model's dot
_GAP = 12  # pixels, between two kinds
_LABEL = 16  # letters of a model's name beside its curve
_DPI = 72  # matplotlib's SVG has one unit a point
_STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be selected, and the page's font draws it
    "svg.hashsalt": "chiasm",  # the same data gives the same file
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.size": 12,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.75,
}


@dataclass(frozen=True)
class Drawing:
    """A drawn plot. svg: what stands inside of an SVG element whose box is (0, 0, width, height); safe in HTML."""

    width: int
    height: int
    svg: str


def draw_dots(panel: DotPanel, name: str) -> Drawing:
    """A dot plot: a line a kind; on it a dot with interval and floor for each model, a tick at chance.

    name: see `themed`.
    """
    row_height = _SLOT * max(len(row.scores) for row in panel.rows) + _GAP
    height = row_height * len(panel.rows)

    def draw(axes: Any) -> None:
        axes.set_xlim(0, panel.limit)
        axes.set_ylim(height, -_SLOT)  # y counts pixels downwards; above the first row stands the word "chance"
        axes.set_yticks([])
        axes.spines[["left"]].set_visible(False)
        axes.grid(axis="x")
        axes.xaxis.set_major_locator(_ticker().MaxNLocator(5))
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.tick_params(length=0)
        for index, row in enumerate(panel.rows):
            _draw_row(axes, row, index * row_height, row_height)
        chance = panel.rows[0].chance
        side = "left" if chance < 0.1 * panel.limit else "center"
        axes.text(chance, -2, "chance", color=MUTED, size=11, ha=side, va="bottom")

    return drawn(draw, WIDTH, height + _SLOT + 30, name)


def draw_lines(panel: LinePanel, name: str, width: int = WIDTH, height: int = 250) -> Drawing:
    """Curves, each labelled at its end with the model's name and its last value."""
    small = width < WIDTH

    def draw(axes: Any) -> None:
        if panel.log_scale:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(_ticker().LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(_ticker().NullLocator())
        for at, line in enumerate(panel.lines):
            _draw_line(axes, line, hides=any(_coincide(line, other) for other in panel.lines[:at]))
        if panel.chance is not None:
            axes.axhline(panel.chance, color=MUTED, linewidth=1, dashes=(3, 3))
        if panel.share:
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        else:
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
            if not panel.log_scale:
                axes.yaxis.set_major_locator(_ticker().MaxNLocator(4 if small else 6))
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(_ticker().MaxNLocator(3 if small else 5))
        label, unit = _axis(panel)
        axes.xaxis.set_major_formatter(lambda value, _: compact(value / unit) if value else "0")
        axes.grid(axis="y")
        axes.tick_params(length=0)
        axes.spines[["left"]].set_visible(False)
        if not small:
            axes.set_xlabel(label, size=11, loc="right")
        _label_ends(axes, panel, with_names=not small)

    return drawn(draw, width, height, name)


def _axis(panel: LinePanel) -> tuple[str, float]:
    """What stands under a plot, and its unit: time is told in seconds, minutes or hours, as long as the runs took."""
    if panel.by != "seconds":
        return {"samples": "samples seen", "step": "steps"}[panel.by], 1.0
    longest = max(float(line.raw.x[-1]) for line in panel.lines)
    name, unit = next(
        pair
        for pair in (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
        if longest > 2 * pair[1] or pair[1] == 1.0
    )
    return f"training time, {name}", unit


def apart(wanted: Sequence[float], least: float) -> list[float]:
    """Positions near the wanted ones, in the same order, at least `least` apart: labels that do not overlap."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[list[int]] = [[i] for i in order]

    def centre(group: list[int]) -> float:
        return float(np.mean([wanted[i] for i in group]))

    merged = True
    while merged:
        merged = False
        for at in range(len(groups) - 1):
            below, above = groups[at], groups[at + 1]
            if centre(above) - centre(below) < least * (len(above) + len(below)) / 2 - 1e-9:
                groups[at : at + 2] = [below + above]
                merged = True
                break
    placed = list(wanted)
    for group in groups:
        for place, i in enumerate(group):
            placed[i] = centre(group) + least * (place - (len(group) - 1) / 2)
    return placed


def _draw_row(axes: Any, row: DotRow, top: float, height: float) -> None:
    lines = textwrap.wrap(row.label, 24) or [row.label]
    label = "\n".join(lines if len(lines) <= 2 else [lines[0], lines[1] + " …"])
    axes.text(-0.025, top + height / 2, label, transform=axes.get_yaxis_transform(), ha="right", va="center")
    axes.plot([row.chance] * 2, [top + 2, top + height - 2], color=MUTED, linewidth=2, solid_capstyle="butt")
    for index, score in enumerate(row.scores):
        if score is None or not np.isfinite(score.value):
            continue
        y = top + (height - _SLOT * len(row.scores)) / 2 + _SLOT * (index + 0.5)
        tint = colour(index)
        axes.plot([score.floor[1]] * 2, [y - 4, y + 4], color=tint, linewidth=1.5, alpha=0.6)
        axes.plot([score.low, score.high], [y, y], color=tint, linewidth=2, solid_capstyle="round", clip_on=False)
        axes.plot(
            [score.value],
            [y],
            color=tint,
            marker=marker(index),
            markersize=7,
            markerfacecolor=tint if score.beats_floor else PAPER,
            markeredgewidth=1.5,
            clip_on=False,
        )
        axes.text(
            1.025,
            y,
            percent(score.value),
            transform=axes.get_yaxis_transform(),
            color=tint,
            size=11,
            va="center_baseline",
        )


def _draw_line(axes: Any, line: Line, hides: bool) -> None:
    """hides: the curve runs over an earlier one; it is dashed so that both are seen."""
    tint, is_smooth = colour(line.run), not np.array_equal(line.smooth, line.raw.y)
    if is_smooth:
        axes.plot(line.raw.x, line.raw.y, color=tint, linewidth=1, alpha=0.25)
    few = len(line.raw.x) <= 30 and not is_smooth
    (curve,) = axes.plot(line.raw.x, line.smooth, color=tint, linewidth=2, marker=marker(line.run) if few else None)
    curve.set_markersize(4)
    if hides:
        curve.set_dashes((4, 4))


def _coincide(line: Line, other: Line) -> bool:
    if len(line.raw.x) != len(other.raw.x):
        return False
    span = max(float(np.ptp(line.smooth)), 1e-12)
    return bool(np.mean(np.abs(line.smooth - other.smooth)) < 0.01 * span)


def _label_ends(axes: Any, panel: LinePanel, with_names: bool) -> None:
    """The label of each curve, beside its end and clear of the others."""
    to_share = axes.transAxes.inverted()
    ends = [to_share.transform(axes.transData.transform((line.raw.x[-1], line.smooth[-1]))) for line in panel.lines]
    heights = apart([float(end[1]) for end in ends], least=0.15 if with_names else 0.13)
    for line, y in zip(panel.lines, heights, strict=True):
        value = percent(line.smooth[-1]) if panel.share else f"{line.smooth[-1]:.3g}"
        text = f"{_short(line.name)}\n{value}" if with_names else value
        axes.text(1.02, y, text, transform=axes.transAxes, color=colour(line.run), size=11, va="center")


def _short(name: str) -> str:
    return name if len(name) <= _LABEL else name[: _LABEL - 1] + "…"


def drawn(draw: Callable[[Any], None], width: int, height: int, name: str) -> Drawing:
    """What `draw` puts on matplotlib axes, ready for the page. Raises MissingExtra without matplotlib."""
    with _style(), warnings.catch_warnings():
        # The browser's font draws the letters, so it does not matter which ones matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = _figure(width, height)
        draw(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Drawing(width, height, themed(file.getvalue(), name))


def _figure(width: int, height: int) -> Any:
    from matplotlib.figure import Figure  # a figure of its own: pyplot would keep it in a global list

    return Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, layout="constrained")


def _style() -> AbstractContextManager[None]:
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtra("matplotlib", "eval", "a report") from error
    return matplotlib.rc_context(_STYLE)


def _ticker() -> Any:
    from matplotlib import ticker

    return ticker
