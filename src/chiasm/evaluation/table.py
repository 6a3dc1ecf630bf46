"""Evaluations as a table in the terminal: models side by side, every score beside chance and a blind run."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from chiasm.evaluation.result import Evaluation, Score

_Row = tuple[str, str, str, int, float]  # task, metric, kind, items, chance


def table(evaluations: Sequence[Evaluation], *, by_kind: bool = True) -> Table:
    """Percentages: of each model its score with half its 95% interval, and the score of its blind run.

    Models share a row where task, metric, items and chance agree; else the data differ, and each has a row of its own.
    A model that a task was left out for has "left out" beside the task's name; why stands under the table.
    by_kind: also the scores of single kinds of items.
    """
    found = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, caption_justify="left")
    found.add_column("score (%)")
    found.add_column("chance", justify="right")
    for evaluation in evaluations:
        found.add_column(_name(evaluation), justify="right")
        found.add_column("blind", justify="right", style="dim")
    columns = [_scores(evaluation, by_kind) for evaluation in evaluations]
    rows = _rows(columns)
    last = ""
    for row in rows:
        task, metric, kind, _, chance = row
        cells = [cell for column in columns for cell in _cells(column.get(row))]
        if last != task:
            if last:
                found.add_section()
            found.add_row(f"[bold]{escape(task)}[/] ({_counts(rows, task)} items)", "", *_left_out(evaluations, task))
        name = kind.replace("_", " ") if kind else metric
        found.add_row(f"{'    ' if kind else '  '}{escape(name)}", _share(chance), *cells)
        last = task
    left_out = [(_name(model), task, why) for model in evaluations for task, why in model.left_out.items()]
    for task in dict.fromkeys(task for _, task, _ in left_out if task not in {row[0] for row in rows}):
        found.add_section()
        found.add_row(f"[bold]{escape(task)}[/]", "", *_left_out(evaluations, task))
    reasons = [escape(f"{task} was left out for {name}: it {why}") for name, task, why in left_out]
    found.caption = "\n".join(reasons) or None
    return found


def _left_out(evaluations: Sequence[Evaluation], task: str) -> list[str]:
    """The cells of all models beside a task's name."""
    return [cell for evaluation in evaluations for cell in ("left out" if task in evaluation.left_out else "", "")]


def _name(evaluation: Evaluation) -> str:
    return evaluation.model.get("name", "model")


def _scores(evaluation: Evaluation, by_kind: bool) -> dict[_Row, Score]:
    return {
        (result.name, score.name, score.group, score.items, round(score.chance, 6)): score
        for result in evaluation.results
        for score in result.scores
        if by_kind or not score.group
    }


def _rows(columns: Sequence[dict[_Row, Score]]) -> list[_Row]:
    """All rows, tasks and metrics in the order in which they first come."""
    rows = list(dict.fromkeys(row for column in columns for row in column))
    tasks = {task: at for at, task in enumerate(dict.fromkeys(row[0] for row in rows))}
    metrics = {metric: at for at, metric in enumerate(dict.fromkeys(row[:2] for row in rows))}
    return sorted(rows, key=lambda row: (tasks[row[0]], metrics[row[:2]], row[2]))


def _counts(rows: Sequence[_Row], task: str) -> str:
    """How many items the task's metrics are over: several numbers where they differ, as pictures and captions do."""
    return ", ".join(dict.fromkeys(f"{items:,}" for name, _, kind, items, _ in rows if name == task and not kind))


def _cells(score: Score | None) -> tuple[str, str]:
    if score is None:
        return "", ""
    notes = [f"{score.failed} failed"] if score.failed else []
    notes += [f"{_share(score.ties)}% tied"] if score.ties else []
    if score.lenient is not None and (score.unparsed or score.lenient.value != score.value):
        notes.append(f"{_share(score.unparsed)}% unparsed; leniently {_share(score.lenient.value)}")
    note = f" ({', '.join(notes)})" if notes else ""
    blind = score.baselines.get("blind")
    shown = f"{_share(score.value)} ±{_share((score.high - score.low) / 2)}{note}"
    return shown, "" if blind is None else _share(blind)


def _share(value: float) -> str:
    return f"{100 * value:.1f}"
