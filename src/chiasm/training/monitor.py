"""What a run shows and writes while it goes: a progress bar with time left, and metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

METRICS = "metrics.jsonl"


class Monitor:
    """Shows a run's progress and appends its figures to `folder/metrics.jsonl`, one JSON object a line.

    silent: does neither, as on all ranks but the first.
    Where the output is no terminal, a line is printed about every tenth of the run instead of a bar.
    """

    def __init__(self, folder: Path, steps: int, name: str, console: Console, *, silent: bool = False) -> None:
        if silent:
            console = Console(quiet=True)
        self.silent = silent
        self.file, self.steps, self.name, self.console = folder / METRICS, steps, name, console
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(name, total=steps, figures="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def forget_after(self, step: int) -> None:
        """Drops the figures of steps that a resumed run will do again."""
        if self.silent or not self.file.exists():
            return
        lines = self.file.read_text().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]  # a kill may have cut the last line short
        aside = self.file.with_name(self.file.name + ".new")
        aside.write_text("".join(line for line in whole if json.loads(line)["step"] <= step))
        aside.replace(self.file)  # in one go: a kill here must not cost the figures

    def write(self, figures: Mapping[str, Any]) -> None:
        """Appends a line to metrics.jsonl."""
        if self.silent:
            return
        with self.file.open("a") as file:
            file.write(json.dumps(figures) + "\n")

    def show(self, step: int, figures: str) -> None:
        """Moves the bar."""
        self.bar.update(self.task, completed=step, figures=figures)
        tenth = max(1, self.steps // 10)
        if not self.console.is_terminal and (step % tenth == 0 or step == self.steps):
            self.console.print(f"{self.name}  step {step}/{self.steps}  {figures}", highlight=False, markup=False)

    def say(self, text: str, *, warning: bool = False) -> None:
        """A line above the bar."""
        style = "yellow" if warning else None
        self.console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)
