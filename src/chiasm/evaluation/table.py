"""Evaluations as a table in the terminal: models side by side, every score beside chance and a blind run."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from chiasm.evaluation.result import Evaluation, Score

_Row = tuple[str, str, str, int, float]  # task, metric, kind, items, chance


def table(evaluations: Sequence[Evaluation], *, by_kind: bool = True) -> Table:
    """Percentages: of each model its score with the 95% interval, and the score of its blind run.

    Models share a row where task, metric, items and chance agree; else the data differ, and each has a row of its own.
    by_kind: also the scores of single kinds of items.
    """
    found = Table(title_justify="left", header_style="bold")
    for name in ("task", "metric"):
        found.add_column(name)
    for name in ("items", "chance"):
        found.add_column(name, justify="right")
    for evaluation in evaluations:
        found.add_column(evaluation.model.get("name", "model"), justify="right")
        found.add_column("blind", justify="right", style="dim")
    columns = [_scores(evaluation, by_kind) for evaluation in evaluations]
    last = ""
    for row in _rows(columns):
        task, metric, kind, items, chance = row
        cells = [cell for column in columns for cell in _cells(column.get(row))]
        if last not in ("", task):
            found.add_section()
        found.add_row(task if task != last else "", f"  {kind}" if kind else metric, str(items), _share(chance), *cells)
        last = task
    return found


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


def _cells(score: Score | None) -> tuple[str, str]:
    if score is None:
        return "", ""
    notes = [f"{score.failed} failed"] if score.failed else []
    notes += [f"{_share(score.ties)}% tied"] if score.ties else []
    note = f" ({', '.join(notes)})" if notes else ""
    blind = score.baselines.get("blind")
    shown = f"{_share(score.value)} \\[{_share(score.low)}, {_share(score.high)}]{note}"
    return shown, "" if blind is None else _share(blind)


def _share(value: float) -> str:
    return f"{100 * value:.1f}"
