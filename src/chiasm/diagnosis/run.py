"""A diagnosis: one pass over the data of a recipe, in which every check sees every sample."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from rich.console import Console

from chiasm.diagnosis.check import Check
from chiasm.diagnosis.finding import Coverage, Diagnosis, Finding, worst_first
from chiasm.diagnosis.seen import Seen
from chiasm.diagnosis.setting import Set, Setting
from chiasm.errors import ChiasmError
from chiasm.experiment.recipe import Recipe
from chiasm.progress import Bars

SAMPLE = 2000  # samples read of each set where nothing else is said: a minute at most on a laptop
_AHEAD = 64  # samples read before the checks are through with the ones before


def diagnose(recipe: Recipe, sample: int | None = SAMPLE, console: Console | None = None) -> Diagnosis:
    """Looks for what would break or spoil the training of a recipe. Nothing is written, nothing trained.

    sample: samples read of each set, evenly spread; None reads all. console: shows progress where it is a terminal.
    What is wrong with the recipe's parts is among the findings, not raised. Of stages each is looked at; data that
    several of them share are read once.
    """
    started = time.perf_counter()
    stages = {stage.name: replace(recipe.stage(at, None), name=recipe.name) for at, stage in enumerate(recipe.stages)}
    reported: list[tuple[Finding, list[str]]] = []  # with the stages that it concerns
    read: list[Coverage] = []
    left = dict(stages or {"": recipe})
    with (
        Bars(console or Console(quiet=True), transient=True) as bars,
        ThreadPoolExecutor(min(4, os.cpu_count() or 1), "doctor") as pool,
    ):
        while left:
            alike = [name for name, other in left.items() if _data(other) == _data(next(iter(left.values())))]
            for at, name in enumerate(alike):
                found = _Look(left.pop(name), sample, bars, pool, reads=not at)
                read += [coverage for coverage in found.read if coverage not in read]
                reported += [(finding, alike) for finding in found.of_data]
                reported += [(finding, [name]) for finding in found.findings]
    merged: list[tuple[Finding, list[str]]] = []
    for finding, names in reported:
        if (known := next((others for other, others in merged if other == finding), None)) is not None:
            known += [name for name in names if name not in known]
        else:
            merged.append((finding, [*names]))
    whole = max(1, len(stages))
    findings = [
        finding if len(names) == whole else replace(finding, title=f"stage {', '.join(names)}: {finding.title}")
        for finding, names in merged
    ]
    return Diagnosis(recipe.name, worst_first(findings), tuple(read), time.perf_counter() - started)


def _data(recipe: Recipe) -> tuple[object, ...]:
    """The settings that the checks of samples depend on."""
    data = recipe.data
    return data.train, data.budget, data.captions, data.max_skipped, data.threads


class _Look:
    """One pass over a recipe without stages. reads: whether samples are read, or only what needs none is checked.

    of_data, findings: those about the samples, and the rest. read: how much of each set was read.
    """

    def __init__(self, recipe: Recipe, sample: int | None, bars: Bars, pool: ThreadPoolExecutor, reads: bool) -> None:
        setting = Setting(recipe)
        kinds = [Check.choose(name) for name in Check.names()]
        checks = [kind(setting) for kind in kinds if reads or not _sees(kind)]
        self.of_data: list[Finding] = []
        self.read: list[Coverage] = []
        for set_ in setting.sets if reads else ():
            try:
                indexes = set_.spread(sample)
            except ChiasmError as error:
                if not any(str(error) in finding.title for finding in setting.findings):  # not reported yet
                    why = "None of its samples can be read."
                    self.of_data.append(Finding("readable", "error", f"{set_.name}: {error}", why))
                continue
            self.read.append(Coverage(set_.name, len(indexes), len(set_.source)))
            onlookers = [check for check in checks if check.evaluation or set_ is setting.sets[-1]]
            shown = bars.add_task(f"reading {set_.name}", total=len(indexes))
            for seen in _seen(setting, set_, indexes, pool):
                for check in onlookers:
                    check.see(seen)
                bars.advance(shown)
        self.findings = [*setting.findings]
        closing = bars.add_task("comparing", total=len(checks))
        for check in checks:
            (self.of_data if _sees(type(check)) else self.findings).extend(check.findings())
            bars.advance(closing)


def _sees(kind: type[Check]) -> bool:
    """Whether this check looks at samples."""
    return kind.see is not Check.see


def _seen(setting: Setting, set_: Set, indexes: Sequence[int], pool: ThreadPoolExecutor) -> Iterator[Seen]:
    """The samples in order, read a little ahead: decoding leaves Python's lock to others."""
    waiting: deque[Future[Seen]] = deque()
    for index in indexes:
        waiting.append(pool.submit(setting.seen, set_, index))
        if len(waiting) >= _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
