"""One pass over the data of a recipe; all checks look on."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from chiasm.diagnosis.check import Check
from chiasm.diagnosis.finding import Diagnosis, Finding, Read, worst_first
from chiasm.diagnosis.seen import Seen
from chiasm.diagnosis.setting import Set, Setting
from chiasm.errors import ChiasmError
from chiasm.recipe import Recipe

SAMPLE = 2000  # samples read of each set where nothing else is said: a minute at most on a laptop
_AHEAD = 64  # samples read before the checks are through with the ones before


def diagnose(recipe: Recipe, sample: int | None = SAMPLE, console: Console | None = None) -> Diagnosis:
    """Looks for what would break or spoil the training of a recipe. Nothing is written, nothing trained.

    sample: samples read of each set, evenly spread; None reads all. console: shows progress where it is a terminal.
    What is wrong with the recipe's parts is among the findings, not raised.
    """
    started = time.perf_counter()
    setting = Setting(recipe)
    checks = [Check.choose(name)(setting) for name in Check.names()]
    findings: list[Finding] = []
    read: list[Read] = []
    with _bars(console) as bars, ThreadPoolExecutor(min(4, os.cpu_count() or 1), "doctor") as pool:
        for one in setting.sets:
            try:
                indexes = one.spread(sample)
            except ChiasmError as error:
                if not any(str(error) in finding.title for finding in setting.findings):  # not told yet
                    why = "None of its samples can be read."
                    findings.append(Finding("readable", "error", f"{one.name}: {error}", why))
                continue
            read.append(Read(one.name, len(indexes), len(one.source)))
            onlookers = [check for check in checks if check.evaluation or one is setting.sets[-1]]
            shown = bars.add_task(f"reading {one.name}", total=len(indexes))
            for seen in _seen(setting, one, indexes, pool):
                for check in onlookers:
                    check.see(seen)
                bars.advance(shown)
        closing = bars.add_task("comparing", total=len(checks))
        for check in checks:
            findings += check.findings()
            bars.advance(closing)
    seconds = time.perf_counter() - started
    return Diagnosis(recipe.name, worst_first([*setting.findings, *findings]), tuple(read), seconds)


def _seen(setting: Setting, one: Set, indexes: Sequence[int], pool: ThreadPoolExecutor) -> Iterator[Seen]:
    """The samples in order, read a little ahead: decoding leaves Python's lock to others."""
    waiting: deque[Future[Seen]] = deque()
    for index in indexes:
        waiting.append(pool.submit(setting.seen, one, index))
        if len(waiting) >= _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _bars(console: Console | None) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    return Progress(
        *columns,
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=console is None or not console.is_terminal,
    )
