"""Evaluations as a table in the terminal: models side by side, every score beside chance and a blind run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chiasm.evaluation.result import Evaluation, Score

_ANY = 10_000  # columns of a terminal that everything fits into
_Row = tuple[str, str, str, int, float]  # task, metric, kind, items, chance


def table(evaluations: Sequence[Evaluation], *, by_kind: bool = True, width: int | None = None) -> Table:
    """Percentages: of each model its score with half its 95% interval, and the score of its blind run.

    Models share a row where task, metric, items and chance agree; else the data differ, and each has a row of its own.
    A model that a task was left out for has "left out" beside the task's name; why stands under the table.
    by_kind: also the scores of single kinds of items. width: columns of the terminal; where models do not fit side by
        side into it, each has a line of its own under every score.
    """
    columns = [_scores(evaluation, by_kind) for evaluation in evaluations]
    found = _side_by_side(evaluations, columns)
    if width is not None and len(evaluations) > 1 and Console(width=_ANY).measure(found).maximum > width:
        found = _stacked(evaluations, columns)
    left_out = [(_name(model), task, why) for model in evaluations for task, why in model.left_out.items()]
    reasons = [escape(f"{task} was left out for {name}: it {why}") for name, task, why in left_out]
    found.caption = "\n".join(reasons) or None
    return found


def _side_by_side(evaluations: Sequence[Evaluation], columns: Sequence[dict[_Row, Score]]) -> Table:
    """A row a score, two columns a model."""
    found = _framed("chance", *(heading for evaluation in evaluations for heading in (_name(evaluation), "blind")))
    rows = _rows(columns)
    for task, its_rows in _by_task(evaluations, rows):
        found.add_section()
        found.add_row(_heading(task, its_rows), "", *_left_out(evaluations, task))
        for row in its_rows:
            cells = [cell for column in columns for cell in _cells(column.get(row))]
            found.add_row(_label(row), _share(row[-1]), *cells)
    return found


def _stacked(evaluations: Sequence[Evaluation], columns: Sequence[dict[_Row, Score]]) -> Table:
    """A row a score, and under it a row for each model that has it."""
    found = _framed("chance", "score", "blind")
    for task, its_rows in _by_task(evaluations, _rows(columns)):
        found.add_section()
        found.add_row(_heading(task, its_rows), "", "", "")
        for row in its_rows:
            found.add_row(_label(row), _share(row[-1]), "", "")
            for evaluation, column in zip(evaluations, columns, strict=True):
                if row in column:
                    found.add_row(f"      {escape(_name(evaluation))}", "", *_cells(column[row]))
        for evaluation in evaluations:
            if task in evaluation.left_out:
                found.add_row(f"      {escape(_name(evaluation))}", "", "left out", "")
    return found


def _framed(*headings: str) -> Table:
    found = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, caption_justify="left")
    found.add_column("score (%)")
    for heading in headings:
        found.add_column(escape(heading), justify="right", style="dim" if heading == "blind" else "")
    return found


def _by_task(evaluations: Sequence[Evaluation], rows: Sequence[_Row]) -> Iterator[tuple[str, list[_Row]]]:
    """Each task with its rows; then those that were left out for all."""
    left_out = (task for evaluation in evaluations for task in evaluation.left_out)
    for task in dict.fromkeys([*(row[0] for row in rows), *left_out]):
        yield task, [row for row in rows if row[0] == task]


def _heading(task: str, rows: Sequence[_Row]) -> str:
    return f"[bold]{escape(task)}[/] ({_counts(rows)} items)" if rows else f"[bold]{escape(task)}[/]"


def _label(row: _Row) -> str:
    _, metric, kind, _, _ = row
    return escape(f"    {kind.replace('_', ' ')}" if kind else f"  {metric}")


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


def _counts(rows: Sequence[_Row]) -> str:
    """How many items a task's metrics are over: several numbers where they differ, as pictures and captions do."""
    return ", ".join(dict.fromkeys(f"{items:,}" for _, _, kind, items, _ in rows if not kind))


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
