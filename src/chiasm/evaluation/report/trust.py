"""Whether a model knows what it does not know: reliability diagrams, and risk against coverage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chiasm.evaluation.confidence import Calibration
from chiasm.evaluation.report.plots import Drawing, apart, drawn
from chiasm.evaluation.report.runs import Run, task_names
from chiasm.evaluation.report.theme import GRID, MUTED, colour, marker

_WIDTH, _HEIGHT = 340, 260  # pixels
_LABEL = 11
_FEW = 0.01  # of all items: a bin with fewer stands alone, the line passes it by


@dataclass(frozen=True)
class TrustPanel:
    """One task, and the calibration of each run whose answers carry a confidence."""

    task: str
    known: tuple[tuple[int, Calibration], ...]  # the run's index first


def trust_panels(runs: Sequence[Run]) -> tuple[TrustPanel, ...]:
    """One panel a task that some run has a confidence for."""
    panels = []
    for task in task_names(runs):
        results = ((run.index, run.results[task].calibration) for run in runs if task in run.results)
        known = tuple((index, found) for index, found in results if found is not None)
        if known:
            panels.append(TrustPanel(task, known))
    return tuple(panels)


def draw_reliability(panel: TrustPanel, name: str) -> Drawing:
    """Accuracy over confidence, bin by bin; marks grow with their items. A calibrated model lies on the diagonal."""

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, dashes=(3, 3))
        for index, found in panel.known:
            most = max(bucket.items for bucket in found.bins)
            few = _FEW * sum(bucket.items for bucket in found.bins)
            firm = [bucket for bucket in found.bins if bucket.items >= few]
            x, y = [bucket.confidence for bucket in firm], [bucket.accuracy for bucket in firm]
            axes.plot(x, y, color=colour(index), linewidth=1.5)
            for bucket in found.bins:
                size = 4 + 7 * (bucket.items / most) ** 0.5
                point = [bucket.confidence], [bucket.accuracy]
                axes.plot(*point, color=colour(index), marker=marker(index), markersize=size)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        _percent_axes(axes, "confidence", "right answers")

    return drawn(draw, _WIDTH, _HEIGHT, name)


def draw_risk(panel: TrustPanel, name: str) -> Drawing:
    """Share of wrong answers among the most confident ones, over the share that is answered."""

    def draw(axes: Any) -> None:
        ends = []
        for index, found in panel.known:
            axes.plot(found.coverage, found.risk, color=colour(index), linewidth=2)
            ends.append(found.risk[-1])
        top = max((max(found.risk) for _, found in panel.known), default=1.0)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, min(1.0, 1.15 * top) or 1.0)
        high = axes.get_ylim()[1]
        for (index, found), y in zip(panel.known, apart([end / high for end in ends], least=0.08), strict=True):
            place = axes.transAxes
            axes.text(
                1.02, y, f"{100 * found.risk[-1]:.1f}", transform=place, color=colour(index), size=_LABEL, va="center"
            )
        _percent_axes(axes, "answered, most confident first", "wrong among them")

    return drawn(draw, _WIDTH, _HEIGHT, name)


def _percent_axes(axes: Any, x: str, y: str) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    axes.grid(color=GRID)
    axes.tick_params(length=0)
    axes.spines[["left"]].set_visible(False)
    axes.set_xlabel(x, size=_LABEL, loc="right")
    axes.set_title(y, size=_LABEL, loc="left", color=MUTED)
