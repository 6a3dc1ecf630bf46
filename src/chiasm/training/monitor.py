"""The display and log of a run while it goes: a progress bar with time left, and metrics.jsonl."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console

from chiasm.progress import Bars, clock
from chiasm.training.tracker import RunInfo, Tracker, TrackerConfig, scalars

METRICS = "metrics.jsonl"
_READ = 0.2  # seconds between two sights of the bar


class Monitor:
    """Shows a run's progress and appends its figures to `folder/metrics.jsonl`, one JSON object a line.

    trackers: what shows these figures too. recipe: the text that they show beside them.
    silent: does none of this, as on all ranks but the first.
    Where the output is no terminal, a line is printed every tenth of the run instead of a bar.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        name: str,
        console: Console,
        *,
        trackers: Sequence[TrackerConfig] = (),
        recipe: str = "",
        silent: bool = False,
    ) -> None:
        if silent:
            console = Console(quiet=True)
        self.silent = silent
        self.file, self.steps, self.name, self.console = folder / METRICS, steps, name, console
        self.configs, self.start = () if silent else tuple(trackers), RunInfo(folder, name, recipe)
        self.trackers: list[Tracker] = []
        self.shown = 0.0
        self.bar = Bars(console, shown=not silent, pause=0, refresh=4)  # drawing takes time from a CPU that trains
        self.task = self.bar.add_task(name, total=steps)

    def __enter__(self) -> Self:
        self.trackers = [config.start(self.start) for config in self.configs]
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        for tracker in self.trackers:
            tracker.close()
        self.trackers = []

    def forget_after(self, step: int) -> None:
        """Drops the figures of steps that a resumed run will do again."""
        self.start = replace(self.start, step=step, logged=step)
        if self.silent or not self.file.exists():
            return
        lines = self.file.read_text().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]  # a kill may have cut the last line short
        at = [json.loads(line)["step"] for line in whole]
        self.start = replace(self.start, logged=max([step, *at]))
        aside = self.file.with_name(self.file.name + ".new")
        aside.write_text("".join(line for line, its in zip(whole, at, strict=True) if its <= step))
        aside.replace(self.file)  # in one go: a kill here must not cost the figures

    def write(self, figures: Mapping[str, Any]) -> None:
        """Appends a line to metrics.jsonl, and logs its numbers to the trackers."""
        if self.silent:
            return
        with self.file.open("a") as file:
            file.write(json.dumps(figures) + "\n")
        for tracker in self.trackers:
            tracker.log(figures["step"], scalars(figures))

    def waits(self, step: int) -> bool:
        """Whether `show` has something to do at this step: figures cost time, and nobody reads a hundred a second."""
        if self.silent or self.console.quiet:
            return False
        if not self.console.is_terminal:
            return self.bar.due(self.task, step)
        return time.monotonic() - self.shown >= _READ

    def show(self, step: int, figures: Sequence[str]) -> None:
        """Moves the bar; figures: what stands beside it, in the order of its worth."""
        self.bar.update(self.task, completed=step, figures=figures)
        self.shown = time.monotonic()

    def say(self, text: str, *, warning: bool = False) -> None:
        """A line above the bar."""
        style = "yellow" if warning else None
        self.console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def in_words(loss: float, figures: Mapping[str, float]) -> list[str]:
    """What stands beside the bar, made of `Pace.figures`, in the order of its worth."""
    words = [f"loss {loss:.3f}"]
    if "seconds_left" in figures:
        words.append(f"{clock(figures['seconds_left'])} left")
    words.append(f"{figures['samples_per_second']:,.0f} samples/s")
    if "memory_bytes" in figures:
        words.append(f"{figures['memory_bytes'] / 1e9:.1f} GB")
    if "matrix_share" in figures:
        words.append(f"{figures['matrix_share']:.0%} of the matrix peak")
    return words
