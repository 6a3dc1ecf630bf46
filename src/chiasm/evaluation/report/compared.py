"""A comparison of two runs as people read it: a table, a few lines, a page with the items that changed, JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from chiasm.config import dump
from chiasm.data.files import inside
from chiasm.data.image import Image
from chiasm.errors import DataError, RecipeError
from chiasm.evaluation.comparison import CERTAIN, Change, Compared, Comparison, images_of
from chiasm.evaluation.files import write_file
from chiasm.evaluation.outcomes import IMAGES
from chiasm.evaluation.report import environment
from chiasm.evaluation.report.display import p_in_words, p_value, percent, points
from chiasm.evaluation.report.examples import data_uri

_SHOWN = 24  # changed items of each direction and task on the page


@dataclass(frozen=True)
class ChangedItem:
    """One changed item on the page. better: which model did better, 0 or 1.

    picture: the image that was asked about, images: those that both models answered with; data URIs, or "".
    """

    change: Change
    picture: str
    better: int
    images: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Section:
    """One task on the page: items of both directions; of the others, beyond what is shown, only the number."""

    compared: Compared
    items: tuple[ChangedItem, ...]
    verdict: str


def difference_table(comparison: Comparison) -> Table:
    """Every metric of every task: both figures, the difference with its interval, p, and how many items changed."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.caption = f"A: {_safe(comparison.names[0])}   B: {_safe(comparison.names[1])}   changed: A better / B better"
    for column in ("%", "A", "B", "A - B", "95% interval", "p", "changed"):
        table.add_column(column, justify="left" if column == "%" else "right", no_wrap=column != "%")
    for task in comparison.tasks:
        table.add_row(f"[bold]{_safe(task.task)}[/] ({task.headline.items:,})")
        for difference in task.differences:
            figures = percent(difference.first), percent(difference.second), points(difference.value)
            interval = f"{points(difference.low)} to {points(difference.high)}"
            changed = f"{difference.wins:,} / {difference.losses:,}"
            table.add_row(f"  {_safe(difference.name)}", *figures, interval, p_value(difference.p), changed)
    return table


def changed_lines(comparison: Comparison, shown: int) -> list[str]:
    """What was found, a sentence a task, and under it the first changed items."""
    lines = []
    for task in comparison.tasks:
        lines.append(f"{task.task}: {verdict(task, comparison)}")
        lines += [f"  {note}" for note in task.notes]
        for change in widest(task.changes, shown):
            better = comparison.names[0 if change.gain > 0 else 1]
            pairs = zip(comparison.names, change.answers, strict=True)
            answers = " | ".join(f"{name}: {_short(text)}" for name, text in pairs)
            lines.append(f"  {change.key}: {better} did better ({answers})")
    return lines


def verdict(task: Compared, comparison: Comparison) -> str:
    """Whether the headline's difference is more than chance, in words."""
    difference, (first, second) = task.headline, comparison.names
    if difference.wins == difference.losses == 0:
        return "no item changed"
    better = first if difference.value > 0 else second
    split = f"{first} did better in {difference.wins:,} items, {second} in {difference.losses:,}"
    if task.adjusted >= CERTAIN:
        return f"no clear difference ({p_in_words(task.adjusted)} after Holm's correction; {split})"
    lead = points(abs(difference.value)).lstrip("+")
    return f"{better} is better by {lead} points ({p_in_words(task.adjusted)} after Holm's correction; {split})"


def widest(changes: Sequence[Change], limit: int) -> list[Change]:
    """The changes of widest gain, one of either direction in turn, so that both are seen."""
    ranked = sorted(changes, key=lambda change: -abs(change.gain))
    directions = [[change for change in ranked if change.gain > 0], [change for change in ranked if change.gain < 0]]
    return [several[at] for at in range(limit) for several in directions if at < len(several)][:limit]


def write_json(comparison: Comparison, file: Path) -> None:
    """Everything that was found, the changed items too."""
    write_file(file, json.dumps(dump(comparison), indent=1) + "\n")


def write_comparison(comparison: Comparison, folders: Sequence[Path], file: Path) -> tuple[Path, list[str]]:
    """Writes one self-contained page; returns where, and for which tasks there are no pictures, and why.

    folders: the two evaluations; pictures are read from the data that the first says it was asked of.
    Raises MissingExtra without chiasm[eval].
    """
    sections, missing = [], []
    for task in comparison.tasks:
        images: Mapping[str, Image] = {}
        try:
            images = images_of(folders[0], task.task) if task.changes else {}
        except (DataError, RecipeError) as error:
            missing.append(f"{task.task}: {error}")
        sections.append(_section(task, comparison, images, folders))
    page = (
        environment.make()
        .get_template("compare.html")
        .render(
            comparison=comparison,
            sections=sections,
            missing=missing,
            p_value=p_value,
            certain=CERTAIN,
            css=environment.text("page.css"),
        )
    )
    write_file(file, page)
    return file, missing


def _section(task: Compared, comparison: Comparison, images: Mapping[str, Image], folders: Sequence[Path]) -> Section:
    items = []
    for change in widest(task.changes, 2 * _SHOWN):
        picture = images.get(change.key) or images.get(change.sample)
        answers = zip(folders, change.images, strict=True)
        first, second = (_drawn(Image(inside(folder / IMAGES, name)) if name else None) for folder, name in answers)
        items.append(ChangedItem(change, _drawn(picture), 0 if change.gain > 0 else 1, (first, second)))
    return Section(task, tuple(items), verdict(task, comparison))


def _drawn(image: Image | None) -> str:
    if image is None:
        return ""
    try:
        return data_uri(image)
    except DataError:  # an image that cannot be decoded: then there is none to show
        return ""


def _short(text: str) -> str:
    line = " ".join(text.split()) or "nothing"
    return line if len(line) <= 60 else line[:59] + "…"


def _safe(text: str) -> str:
    return text.replace("[", "\\[")
