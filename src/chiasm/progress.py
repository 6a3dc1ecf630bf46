"""How far long work is: bars that fit the terminal, and lines in a log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from time import monotonic
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

GAP = "  "  # between figures


class Bars(Progress):
    """Progress bars with the time left, one a task, each on one line at any width.

    A task may have `figures`, texts in the order of their worth, in place of its times; those that do not fit beside
    the bar are left out. Where the output is no terminal there are lines instead: one each time that another tenth of a
    task is done, but none within `pause` seconds of the one before, nor of the task's beginning.

    shown: False draws and prints nothing. transient: whether bars vanish when they end.
    """

    def __init__(
        self, console: Console, *, shown: bool = True, transient: bool = False, pause: float = 5.0, refresh: float = 10
    ) -> None:
        self._logs = shown and not console.is_terminal and not console.quiet
        self._pause = pause
        self._told: dict[TaskID, tuple[int, float]] = {}  # the tenths that a line told of, and when it did
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=_bar(console.width)),
            MofNCompleteColumn(),
            _Figures(self),
            console=console,
            transient=transient,
            refresh_per_second=refresh,
            disable=not shown or not console.is_terminal,
        )

    def add_task(  # with what rich's takes, so that tasks begin at once
        self,
        description: str,
        start: bool = True,
        total: float | None = 100.0,
        completed: int = 0,
        visible: bool = True,
        **fields: Any,
    ) -> TaskID:
        """A task of so many steps, as rich's; `figures` may be among its fields."""
        task = super().add_task(description, start, total, completed, visible, **fields)
        self._told[task] = _tenths(completed, total), monotonic()
        return task

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Changes a task, as rich's, and prints its line if one is due."""
        super().update(task_id, **changes)
        self._log(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Moves a task on, as rich's, and prints its line if one is due."""
        super().advance(task_id, advance)
        self._log(task_id)

    def due(self, task_id: TaskID, completed: float) -> bool:
        """Whether a line would be printed, were so much of the task done."""
        if not self._logs:
            return False
        task, (tenths, when) = self._task(task_id), self._told[task_id]
        return task.visible and _tenths(completed, task.total) > tenths and monotonic() - when >= self._pause

    def _log(self, task_id: TaskID) -> None:
        task = self._task(task_id)
        if self.due(task_id, task.completed):
            self._told[task_id] = _tenths(task.completed, task.total), monotonic()
            done = f"{task.completed:.0f}/{task.total:.0f}"
            line = GAP.join([task.description, done, *_figures(task)])
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _task(self, task_id: TaskID) -> Task:
        return next(task for task in self.tasks if task.id == task_id)


class _Figures(ProgressColumn):
    """As many of a task's figures as fit beside the widest of the bars."""

    def __init__(self, bars: Bars) -> None:
        super().__init__()
        self.bars = bars

    def render(self, task: Task) -> Text:
        shown = [other for other in self.bars.tasks if other.visible]
        words = max(cell_len(other.description) for other in shown)
        numbers = max(2 * len(f"{other.total or 0:.0f}") + 1 for other in shown)
        width = self.bars.console.width
        return Text(fitting(_figures(task), width - words - numbers - _bar(width) - 3), no_wrap=True)


def _bar(width: int) -> int:
    return 24 if width >= 100 else 10


def fitting(figures: Sequence[str], width: int) -> str:
    """The first figures that fit side by side into so many columns."""
    text = ""
    for figure in figures:
        longer = f"{text}{GAP}{figure}" if text else figure
        if cell_len(longer) > width:
            break
        text = longer
    return text


def _figures(task: Task) -> Sequence[str]:
    figures: Sequence[str] = task.fields.get("figures", ())
    if figures:
        return figures
    left = task.time_remaining
    times = [f"{clock(left)} left"] if left and not task.finished else []
    return [*times, clock(task.elapsed or 0)]


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, such as 0:02:05."""
    return str(timedelta(seconds=round(seconds)))


def _tenths(completed: float, total: float | None) -> int:
    return int(10 * completed / total) if total else 0
