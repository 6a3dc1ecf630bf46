"""Items to look at: what was asked, what each model answered, and how sure it was."""

from __future__ import annotations

import base64
import io
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from chiasm.data.files import inside
from chiasm.data.image import Image
from chiasm.evaluation.report.display import MINUS
from chiasm.evaluation.report.runs import Run, task_names
from chiasm.evaluation.result import Candidate, Example, TextOrImage

_SHOWN = 8  # items of each outcome and task: enough to see a pattern, few enough to read
_CANDIDATES = 5  # and the best right one where it comes later
_SIDE = 192  # pixels, the longer side of a thumbnail: twice its place on the page, for fine screens


@dataclass(frozen=True)
class PageContent:
    """A text or an image on the page. picture: a data URI, or ""."""

    text: str
    picture: str


@dataclass(frozen=True)
class Option:
    """A candidate. width: how far its score reaches, in percent of the range of the shown scores of model and task."""

    thing: PageContent
    score: str
    width: float
    true: bool


@dataclass(frozen=True)
class Answer:
    """One model's answer to one item. image: a data URI, where it answered with an image."""

    run: int
    right: bool
    options: tuple[Option, ...]
    reply: str = ""
    image: str = ""
    references: tuple[str, ...] = ()
    earned: str = ""


@dataclass(frozen=True)
class Card:
    """One item with the answers of all runs that have it. outcome: "right", "wrong" or, where they differ, "split"."""

    key: str
    group: str
    query: PageContent
    answers: tuple[Answer, ...]

    @property
    def outcome(self) -> str:
        return _outcome([answer.right for answer in self.answers])

    def of(self, run: int) -> Answer | None:
        """The answer of the run at that place; None where it did not keep this item."""
        return next((answer for answer in self.answers if answer.run == run), None)


@dataclass(frozen=True)
class Gallery:
    """The examples of one task. kept: how many items the runs saved; the cards are a part of them."""

    task: str
    cards: tuple[Card, ...]
    kept: int

    @property
    def groups(self) -> list[str]:
        return sorted({card.group for card in self.cards if card.group})

    @property
    def outcomes(self) -> dict[str, int]:
        """How many cards each outcome has."""
        counts = {outcome: sum(card.outcome == outcome for card in self.cards) for outcome in _OUTCOMES}
        return {outcome: number for outcome, number in counts.items() if number}


_OUTCOMES = ("wrong", "split", "right")  # failures first


def galleries(runs: Sequence[Run]) -> tuple[Gallery, ...]:
    """The examples of every task that has some. Raises DataError for a picture that is missing or broken."""
    found = (_gallery(runs, task) for task in task_names(runs))
    return tuple(gallery for gallery in found if gallery.cards)


def chosen(items: Sequence[_Item], limit: int) -> list[_Item]:
    """Up to `limit` items, the worst first, each group in turn so that a large group does not hide the others."""
    by_group: dict[str, list[_Item]] = defaultdict(list)
    for item in sorted(items, key=lambda item: (-len(item.examples), -item.gap)):
        by_group[item.group].append(item)
    queues = sorted(by_group.values(), key=lambda queue: -queue[0].gap)
    rounds = [queue[at] for at in range(limit) for queue in queues if at < len(queue)]
    return rounds[:limit]


@dataclass(frozen=True)
class _Item:
    """One item of a task, with what each run (by index) kept of it. gap: how far the worst answer missed."""

    key: str
    group: str
    examples: tuple[tuple[int, Example], ...]
    gap: float

    @property
    def outcome(self) -> str:
        return _outcome([example.right for _, example in self.examples])


def _outcome(right: Sequence[bool]) -> str:
    return "right" if all(right) else "split" if any(right) else "wrong"


def _gallery(runs: Sequence[Run], task: str) -> Gallery:
    kept = [(run.index, example) for run in runs if task in run.results for example in run.results[task].examples]
    ranges = {index: _range([one for at, one in kept if at == index]) for index in {index for index, _ in kept}}
    by_question: dict[tuple[str, TextOrImage], list[tuple[int, Example]]] = defaultdict(list)
    for index, example in kept:
        by_question[example.key, example.query].append((index, example))  # a key may be asked about in several ways
    items = [
        _Item(key, group[0][1].group, tuple(group), max(_gap(example, ranges[index]) for index, example in group))
        for (key, _), group in by_question.items()
    ]
    cards = [
        _card(item, runs, ranges)
        for outcome in _OUTCOMES
        for item in chosen([item for item in items if item.outcome == outcome], _SHOWN)
    ]
    return Gallery(task, tuple(cards), len(items))


def _card(item: _Item, runs: Sequence[Run], ranges: dict[int, tuple[float, float]]) -> Card:
    first, example = item.examples[0]
    answers = tuple(
        Answer(
            at,
            kept.right,
            _options(kept, ranges[at], runs[at]),
            kept.reply,
            _data_uri(kept.image, runs[at]),
            kept.references,
            kept.earned,
        )
        for at, kept in item.examples
    )
    return Card(item.key, item.group, _page_content(example.query, runs[first]), answers)


def _options(example: Example, span: tuple[float, float], run: Run) -> tuple[Option, ...]:
    """The best candidates, and the best right one wherever it stands."""
    best, others = example.candidates[:_CANDIDATES], example.candidates[_CANDIDATES:]
    late = [candidate for candidate in others if candidate.true][:1]
    if any(candidate.true for candidate in best):
        late = []
    low, high = span
    digits = max(0, 2 - math.floor(math.log10(high - low))) if high > low else 3
    return tuple(
        Option(
            thing=_page_content(candidate.shown, run),
            score=f"{candidate.score:.{digits}f}".replace("-", MINUS),
            width=100 * (candidate.score - low) / (high - low) if high > low else 100.0,
            true=candidate.true,
        )
        for candidate in (*best, *late)
    )


def _range(examples: Sequence[Example]) -> tuple[float, float]:
    scores = [candidate.score for example in examples for candidate in example.candidates]
    return (min(scores), max(scores)) if scores else (0.0, 0.0)


def _gap(example: Example, span: tuple[float, float]) -> float:
    """How far the best wrong candidate lies above the best right one, as a share of the range of scores."""
    wrong, right = _best(example.candidates, False), _best(example.candidates, True)
    width = span[1] - span[0]
    if wrong is None or width == 0:
        return 0.0
    return (wrong - (right if right is not None else span[0])) / width


def _best(candidates: Sequence[Candidate], true: bool) -> float | None:
    return max((candidate.score for candidate in candidates if candidate.true == true), default=None)


def _page_content(shown: TextOrImage, run: Run) -> PageContent:
    return PageContent(shown.text, _data_uri(shown.picture, run))


def _data_uri(thumbnail: str, run: Run) -> str:
    """A thumbnail that the run has kept; "" where there is none."""
    return data_uri(Image(inside(run.pictures, thumbnail))) if thumbnail else ""


def data_uri(picture: Image) -> str:
    """A thumbnail that stands in the page itself. The pixels are encoded anew: nothing else of the file goes along."""
    pixels = picture.decode(at_least=_SIDE)
    pixels.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    pixels.save(file, format="JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
