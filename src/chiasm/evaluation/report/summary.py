"""The report in words: who is best at what, how far above chance and baselines, and where it fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chiasm.evaluation.report.display import compact, listing, percent, points, words_of
from chiasm.evaluation.report.runs import Run, metrics, task_names
from chiasm.evaluation.report.tables import TableRow, model_size, training_time
from chiasm.evaluation.result import Score

_NAMED = 3  # how many failures a sentence can hold


@dataclass(frozen=True)
class Failure:
    """Items that some runs answer no better than their floor: the 95% interval reaches down to it.

    group: "" where it is the whole task. scores: those of the failing runs alone, with the run's index.
    """

    task: str
    metric: str
    group: str
    scores: tuple[tuple[int, Score], ...]

    @property
    def place(self) -> str:
        return f"{self.task}: {words_of(self.group)}" if self.group else self.task

    @property
    def floors(self) -> list[str]:
        """What the runs did not beat, in percent; the lowest and the highest where it is not one for all."""
        values = sorted(score.floor[1] for _, score in self.scores)
        return list(dict.fromkeys([percent(values[0]), percent(values[-1])]))

    @property
    def floor_names(self) -> str:
        """What those figures are: "blind", or "blind, chance"."""
        return ", ".join(dict.fromkeys(score.floor[0] for _, score in self.scores))


def failures(runs: Sequence[Run]) -> tuple[Failure, ...]:
    """Whole tasks (by headline) and single kinds (by the first figure that has kinds) that do not beat their floor."""
    found = []
    for task in task_names(runs):
        pairs = metrics(runs, task)
        by_kind = [name for name, group in pairs if group]
        kinds = [pair for pair in pairs if pair[1] and pair[0] == by_kind[0]]
        for metric, group in [pairs[0], *kinds]:
            scores = [(run.index, run.score(task, metric, group)) for run in runs]
            failing = tuple((index, score) for index, score in scores if score is not None and not score.beats_floor)
            if failing:
                found.append(Failure(task, metric, group, failing))
    return tuple(found)


def failures_by_task(runs: Sequence[Run]) -> dict[str, list[Failure]]:
    """The failures under the names of their tasks."""
    found: dict[str, list[Failure]] = {}
    for failure in failures(runs):
        found.setdefault(failure.task, []).append(failure)
    return found


def weakest(runs: Sequence[Run]) -> Failure:
    """The kind (or task) with the smallest margin over its floor, with the run that has it."""
    margins = [
        (score.value - score.floor[1], run.index, result.name, score)
        for run in runs
        for result in run.evaluation.results
        for score in result.scores
        if score.group or score == result.headline
    ]
    _, index, task, score = min(margins, key=lambda entry: entry[0])
    return Failure(task, score.name, score.group, ((index, score),))


def headline(runs: Sequence[Run], title: str | None = None) -> str:
    """The title of the report: the given one, or the models' names."""
    return title or " · ".join(run.name for run in runs)


def lede(runs: Sequence[Run], rows: Sequence[TableRow]) -> str:
    """One sentence: the models, what they are best at, how far above their floors, and where they fail.

    rows: the first score of every task.
    """
    if not rows:
        return f"{_who(runs)}: trained, not evaluated."
    clause = _one_model(rows) if len(runs) == 1 else _several_models(rows, runs)
    clauses = [f"{_who(runs)}: {clause}", _where_it_fails(runs), _left_out(runs)]
    return "; ".join(filter(None, clauses)) + "."


def trained(run: Run) -> str:
    """What was trained, in a phrase: family, size, samples, time."""
    size, seen = model_size(run), run.log.last.get("samples")
    time = training_time(run)
    words = [
        run.evaluation.model.get("family", ""),
        f"{size} parameters" if size else "",
        f"{compact(seen)} samples seen" if seen else "",
        f"trained in {time}" if time else "",
    ]
    return ", ".join(word for word in words if word)


def above(score: Score) -> str:
    """How a score stands to its floor: "46.3 points above chance (25.0%)", "not better than blind (73.3%)"."""
    name, value = score.floor
    if not score.beats_floor:
        return f"not better than {name} ({percent(value)}%)"
    return f"{points(score.value - value).lstrip('+')} points above {name} ({percent(value)}%)"


def _who(runs: Sequence[Run]) -> str:
    if len(runs) > _NAMED:
        return f"{len(runs)} models"
    sizes = [model_size(run) for run in runs]
    if len(runs) > 1 and sizes[0] and len(set(sizes)) == 1:
        return f"{listing([run.name for run in runs])} ({sizes[0]} parameters each)"
    return listing(
        [f"{run.name} ({size} parameters)" if size else run.name for run, size in zip(runs, sizes, strict=True)]
    )


def _one_model(rows: Sequence[TableRow]) -> str:
    return listing([_with_value(row, brief=at > 0) for at, row in enumerate(rows)])


def _several_models(rows: Sequence[TableRow], runs: Sequence[Run]) -> str:
    """Tasks that somebody clearly leads, by leader; then the tasks without a clear lead."""
    parts = [(f"{run.name} is best on", [row for row in rows if row.clear and row.best == run.index]) for run in runs]
    parts.append(("no clear difference on", [row for row in rows if len(row.known) > 1 and not row.clear]))
    clauses: list[str] = []
    for words, found in parts:
        if found:
            tasks = [_with_value(row, brief=bool(clauses) or at > 0) for at, row in enumerate(found)]
            clauses.append(f"{words} {listing(tasks)}")
    return "; ".join(clauses) or "no two of them were given the same task"


def _with_value(row: TableRow, brief: bool) -> str:
    """A task with its best score; the words "points above" only where they come first."""
    _, score = row.ranked[0]
    name, value = score.floor
    if not score.beats_floor:
        return f"{row.task} ({percent(score.value)}%, not better than {name})"
    over = points(score.value - value)
    lead = f"{over} over {name}" if brief else f"{over.lstrip('+')} points above {name}"
    return f"{row.task} ({percent(score.value)}%, {lead})"


def _where_it_fails(runs: Sequence[Run]) -> str:
    """Failing tasks, then failing kinds task by task; the first few where they are many."""
    found = failures_by_task(runs)
    if not found:
        return "every task and kind is better than chance and baselines"
    whole = [(task, failure) for task, failing in found.items() for failure in failing if not failure.group]
    parts = [f"{task}{_for_whom(failure, runs)}" for task, failure in whole]
    for task, failing in found.items():
        kinds = [f"{words_of(failure.group)}{_for_whom(failure, runs)}" for failure in failing if failure.group]
        if kinds:
            parts.append(f"{_first_few(kinds)} ({task})")
    return f"not better than chance or a baseline: {', '.join(parts)}"


def _left_out(runs: Sequence[Run]) -> str:
    parts = [f"{listing(list(run.evaluation.left_out))} for {run.name}" for run in runs if run.evaluation.left_out]
    return f"left out: {', '.join(parts)}" if parts else ""


def _for_whom(failure: Failure, runs: Sequence[Run]) -> str:
    """Whose failure it is, unless it is everybody's."""
    asked = [run for run in runs if run.score(failure.task, failure.metric, failure.group)]
    names = [runs[index].name for index, _ in failure.scores]
    return f" for {listing(names)}" if len(names) < len(asked) else ""


def _first_few(names: Sequence[str]) -> str:
    many = len(names) > _NAMED + 1
    return listing([*names[:_NAMED], f"{len(names) - _NAMED} more"] if many else names)
