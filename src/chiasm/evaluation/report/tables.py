"""The tables of a report: what was scored, beside what it takes to judge it, and how the runs differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from chiasm.evaluation.comparison import CERTAIN, leads
from chiasm.evaluation.report.display import compact, count, duration, number, p_in_words, percent, points
from chiasm.evaluation.report.runs import Run, metrics, task_names
from chiasm.evaluation.result import Score
from chiasm.evaluation.statistics import Difference

_LISTED = 6  # tensors named in a note


@dataclass(frozen=True)
class TableRow:
    """One figure of one task, for each run (None: not measured). same: whether all runs were asked the same.

    lead: how the best two runs differ item by item, its p corrected for all tasks; None where that cannot be told.
    """

    task: str
    metric: str
    group: str
    scores: tuple[Score | None, ...]
    same: bool
    lead: Difference | None = None

    @property
    def known(self) -> list[tuple[int, Score]]:
        return [(index, score) for index, score in enumerate(self.scores) if score is not None]

    @property
    def chance(self) -> str:
        """One number; several where the runs were asked different things."""
        return " / ".join(dict.fromkeys(percent(score.chance) for _, score in self.known))

    @property
    def items(self) -> str:
        return " / ".join(dict.fromkeys(count(score.items) for _, score in self.known))

    @property
    def ranked(self) -> list[tuple[int, Score]]:
        return sorted(self.known, key=lambda pair: pair[1].value, reverse=True)

    @property
    def best(self) -> int | None:
        """The run with the highest value; None where there is nothing to compare, or the highest is shared."""
        ranked = self.ranked
        if len(ranked) < 2 or ranked[0][1].value == ranked[1][1].value:
            return None
        return ranked[0][0]

    @property
    def clear(self) -> bool:
        """Whether the best run is better by the paired test; without one, whether its interval lies above the next."""
        ranked = self.ranked
        if self.lead is not None:
            return self.best is not None and self.lead.p < CERTAIN
        return len(ranked) > 1 and ranked[0][1].low > ranked[1][1].high

    def verdict(self, runs: Sequence[Run]) -> str:
        """What the difference between the two best runs is worth, in words."""
        ranked = self.ranked
        if len(ranked) < 2:
            return ""
        (first, top), (second, next_best) = ranked[0], ranked[1]
        lead = points(top.value - next_best.value)
        why = p_in_words(self.lead.p) if self.lead is not None else ""
        if self.clear:
            return f"{runs[first].name} {lead} over {runs[second].name}{why and f' ({why})'}"
        if top.value == next_best.value:
            return "equal"
        return f"no clear difference ({lead}, {why or 'intervals overlap'})"


@dataclass(frozen=True)
class Fact:
    """One line of the training table: what, and its value for each run ("" where unknown)."""

    name: str
    values: tuple[str, ...]


def headline_rows(runs: Sequence[Run]) -> tuple[TableRow, ...]:
    """The first score of every task, with the paired test of its two best runs where they were asked the same."""
    rows = [_row(runs, task, *metrics(runs, task)[0]) for task in task_names(runs)]
    tested = [at for at, row in enumerate(rows) if row.same and len(row.known) > 1]
    pairs = []
    for at in tested:
        first, second = (runs[index].evaluated for index, _ in rows[at].ranked[:2])
        pairs.append((rows[at].task, first, second))
    for at, lead in zip(tested, leads(pairs), strict=True):
        rows[at] = replace(rows[at], lead=lead)
    return tuple(rows)


def all_rows(runs: Sequence[Run]) -> tuple[TableRow, ...]:
    """Every score of every task."""
    return tuple(_row(runs, task, *pair) for task in task_names(runs) for pair in metrics(runs, task))


def overall_rows(runs: Sequence[Run]) -> tuple[TableRow, ...]:
    """Every score that covers all items of its task."""
    return tuple(row for row in all_rows(runs) if not row.group)


def baseline_names(rows: Sequence[TableRow]) -> list[str]:
    """The baselines that any score has, in order of appearance."""
    return list(dict.fromkeys(name for row in rows for _, score in row.known for name in score.baselines))


def facts(runs: Sequence[Run]) -> tuple[Fact, ...]:
    """What each run is and what it took; a line that no run can fill is left out."""
    keys = dict.fromkeys(key for run in runs for key in run.evaluation.model if key != "name")
    lines = [Fact(key, tuple(_readable(run.evaluation.model.get(key, "")) for run in runs)) for key in keys]
    lines += [
        Fact(
            "samples seen", tuple(count(run.log.last["samples"]) if "samples" in run.log.last else "" for run in runs)
        ),
        Fact("training time", tuple(training_time(run) for run in runs)),
        Fact("samples a second (median)", tuple(_median(run, "samples_per_second") for run in runs)),
        Fact("evaluation time", tuple(_evaluation_time(run) for run in runs)),
    ]
    return tuple(line for line in lines if any(line.values))


def training_time(run: Run) -> str:
    """How long the run trained, in words; "" where it has no log."""
    return duration(run.log.last["seconds"]) if "seconds" in run.log.last else ""


def other_figures(runs: Sequence[Run]) -> tuple[Fact, ...]:
    """What tasks tell beside their scores: figures that are no shares, such as median ranks."""
    named = dict.fromkeys((result.name, key) for run in runs for result in run.results.values() for key in result.facts)
    return tuple(Fact(f"{task}: {key}", tuple(_other(run, task, key) for run in runs)) for task, key in named)


def notes(run: Run) -> list[str]:
    """What the log says that a reader must know: a missing end, skipped steps, tensors that learned nothing."""
    training = run.recipe.get("training", {})
    steps, done = training.get("steps"), run.log.last.get("step")
    found = []
    if isinstance(steps, int) and done is not None and done < steps:
        found.append(f"is not finished: {count(done)} of {count(steps)} steps are logged")
    skipped = sum("skipped_step" in note for note in run.log.notes)
    found += [f"steps skipped because a loss or gradient was not finite: {count(skipped)}"] if skipped else []
    unread = run.log.last.get("skipped_samples", 0)
    found += [f"samples skipped because they could not be read: {count(unread)}"] if unread else []
    dead = list(dict.fromkeys(name for note in run.log.notes for name in note.get("without_gradient", [])))
    if dead:
        more = f" and {len(dead) - _LISTED} more" if len(dead) > _LISTED else ""
        found.append(f"no gradient reached {', '.join(dead[:_LISTED])}{more} in the first step")
    return found


def recipe_differences(runs: Sequence[Run]) -> tuple[Fact, ...]:
    """The keys of the recipes, dotted, whose values are not the same in all runs that have a recipe."""
    flat = [_flat(run.recipe) for run in runs]
    keys = dict.fromkeys(key for entries in flat for key in entries)
    with_recipe = [entries for run, entries in zip(runs, flat, strict=True) if run.recipe]
    return tuple(
        Fact(key, tuple(entries.get(key, "") for entries in flat))
        for key in keys
        if key != "name" and len({entries.get(key) for entries in with_recipe}) > 1
    )


def model_size(run: Run) -> str:
    """The parameters at a glance, such as "2.1M"; as the model tells them where that is not a number; "" if unknown."""
    parameters = run.evaluation.model.get("parameters", "")
    digits = parameters.replace(",", "").replace("_", "")
    return compact(int(digits)) if digits.isdecimal() else parameters


def _row(runs: Sequence[Run], task: str, metric: str, group: str) -> TableRow:
    hashes = {run.results[task].requests for run in runs if task in run.results}
    scores = tuple(run.score(task, metric, group) for run in runs)
    return TableRow(task, metric, group, scores, same=len(hashes) == 1)


def _readable(value: str) -> str:
    return count(int(value)) if value.isdecimal() else value


def _median(run: Run, key: str) -> str:
    values = run.log.series(key).y
    return count(float(np.median(values))) if len(values) else ""


def _evaluation_time(run: Run) -> str:
    return duration(sum(result.seconds for result in run.evaluation.results)) if run.evaluation.results else ""


def _other(run: Run, task: str, key: str) -> str:
    known = run.results[task].facts if task in run.results else {}
    return number(known[key]) if key in known else ""


def _flat(value: Any, key: str = "") -> dict[str, str]:
    """Nested entries as "a.b" and "a[0].b"; a list of plain values stays one."""
    if isinstance(value, Mapping):
        parts = [(f"{key}.{name}" if key else str(name), entry) for name, entry in value.items()]
    elif isinstance(value, list) and any(isinstance(entry, (Mapping, list)) for entry in value):
        parts = [(f"{key}[{at}]", entry) for at, entry in enumerate(value)]
    else:
        return {key: str(value)}
    return {name: text for part, entry in parts for name, text in _flat(entry, part).items()}
