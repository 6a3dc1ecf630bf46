"""Puts the parts of a report on one page, which needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import platform
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import chiasm
from chiasm.evaluation.files import write_file
from chiasm.evaluation.report import display, environment, examples, panels, plots, summary, tables, trust
from chiasm.evaluation.report.runs import Run, XAxis, load_runs, task_names

if TYPE_CHECKING:
    from jinja2 import Environment

_SMALL = (290, 180)  # pixels, width and height of a small plot


@dataclass(frozen=True)
class Plot:
    """A drawing with its caption. main: shown at once, not folded away."""

    title: str
    drawing: plots.Drawing
    note: str = ""
    main: bool = True


def write_report(runs: Sequence[Path], file: Path, title: str | None = None) -> Path:
    """Writes one self-contained HTML page about one or several runs, side by side; returns where it is.

    runs: run folders with evaluation/results.json, with metrics.jsonl, or with both; a run need not be finished.
    title: the heading; the models' names if not given.
    Raises ChiasmError, naming the file, for what is missing or broken; MissingExtra without chiasm[eval].
    """
    write_file(file := Path(file), render(load_runs(runs), title))
    return file


def render(runs: Sequence[Run], title: str | None = None) -> str:
    """The page as text."""
    script = environment.text("page.js")
    headline_rows, overall_rows = tables.headline_rows(runs), tables.overall_rows(runs)
    dots = [_dot_plot(panel, f"dots{at}") for at, panel in enumerate(panels.dot_panels(runs))]
    return (
        _environment()
        .get_template("page.html")
        .render(
            runs=runs,
            title=summary.headline(runs, title),
            css=environment.text("page.css"),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            headline_rows=headline_rows,
            all_rows=tables.all_rows(runs),
            overall_rows=overall_rows,
            baselines=tables.baseline_names(overall_rows),
            facts=tables.facts(runs),
            other_figures=tables.other_figures(runs),
            commands=_commands(runs),
            differences=tables.recipe_differences(runs),
            failures=summary.failures_by_task(runs),
            curves=_curves(runs),
            dots=dots,
            trusts=[_trust(panel, at) for at, panel in enumerate(trust.trust_panels(runs))],
            galleries=examples.galleries(runs),
            protocols=_protocols(runs),
            versions=_versions(),
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )


@dataclass(frozen=True)
class Trust:
    """One task's plots of confidence, with its figures."""

    panel: trust.TrustPanel
    reliability: Plot
    risk: Plot


def _trust(panel: trust.TrustPanel, at: int) -> Trust:
    reliability = Plot("Reliability", trust.draw_reliability(panel, f"reliability{at}"))
    return Trust(panel, reliability, Plot("Risk and coverage", trust.draw_risk(panel, f"risk{at}")))


@dataclass(frozen=True)
class Curves:
    """All that was logged in training, against one thing. by: its name on the page."""

    by: str
    losses: list[Plot]
    progress: list[Plot]
    course: list[Plot]

    @property
    def any(self) -> bool:
        return bool(self.losses or self.progress or self.course)


def _curves(runs: Sequence[Run]) -> list[Curves]:
    """Against samples; where there is something to compare, against steps and time too."""
    axes: dict[str, XAxis] = {"samples": "samples"}
    if len(runs) > 1:
        axes |= {"steps": "step", "time": "seconds"}
    found = [
        Curves(
            word,
            [_line_plot(panel, f"loss-{word}{at}") for at, panel in enumerate(panels.loss_panels(runs, by))],
            [_line_plot(panel, f"seen-{word}{at}", True) for at, panel in enumerate(panels.progress_panels(runs, by))],
            [_line_plot(panel, f"course-{word}{at}", True) for at, panel in enumerate(panels.course_panels(runs, by))],
        )
        for word, by in axes.items()
    ]
    return [curves for curves in found if curves.any]


def _dot_plot(panel: panels.DotPanel, name: str) -> Plot:
    return Plot(panel.title, plots.draw_dots(panel, name), panel.note, panel.main)


def _line_plot(panel: panels.LinePanel, name: str, small: bool = False) -> Plot:
    drawing = plots.draw_lines(panel, name, *_SMALL) if small else plots.draw_lines(panel, name)
    return Plot(panel.title, drawing, note="log scale" if panel.log_scale else "")


def _protocols(runs: Sequence[Run]) -> list[tuple[str, str, list[str]]]:
    """(task, protocol hash, names of the runs it holds for)."""
    found = []
    for task in task_names(runs):
        by_hash: dict[str, list[str]] = {}
        for run in runs:
            if task in run.results:
                by_hash.setdefault(run.results[task].protocol, []).append(run.name)
        found += [(task, protocol, names) for protocol, names in by_hash.items()]
    return found


def _commands(runs: Sequence[Run]) -> list[str]:
    """What to type to make the same report again, in a folder beside the old one."""
    again = Path("again")
    lines, made = [], []
    for run in runs:
        if run.recipe and run.log.steps:
            made.append(again / run.folder.name)
            lines.append(["chiasm", "train", str(run.folder / "recipe.yaml"), "--out", str(made[-1])])
        else:
            made.append(run.folder)
    lines.append(["chiasm", "report", *map(str, made), "--out", str(again / "report.html")])
    return [shlex.join(line) for line in lines]


def _versions() -> list[tuple[str, str]]:
    packages = [(name, metadata.version(name)) for name in ("torch", "numpy", "pillow", "matplotlib")]
    return [("chiasm", chiasm.__version__), ("Python", platform.python_version()), *packages]


def _environment() -> Environment:
    made = environment.make()
    made.filters.update({word.__name__: word for word in (summary.above, summary.trained, display.words_of)})
    made.globals.update(lede=summary.lede, weakest=summary.weakest, notes=tables.notes)
    return made
