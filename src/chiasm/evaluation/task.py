"""What a task is: questions for a model, and a measure of its answers. A task knows no model.

The same `measure` serves the model's answers and those of every baseline, so all figures of a task mean the same."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from functools import cached_property
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from chiasm.config import Component, dump
from chiasm.data.box_format import BoxFormat
from chiasm.data.image import Image
from chiasm.data.sample import Part, Sample, Video
from chiasm.data.source import Source
from chiasm.errors import DataError, RecipeError
from chiasm.evaluation.result import Example, Shown

Show = Callable[[Image], Shown]  # keeps a picture for the report


@dataclass(frozen=True)
class ScoreRequest:
    """How well does each text fit each picture? Answered by a matrix (N images, C columns), higher fits better.

    key: unique in its task.
    texts: one group of phrasings a column. A dual encoder averages the phrasings' embeddings and scales the mean to
        unit length, as open_clip's zero-shot classifier does; a scorer averages the phrasings' scores. Questions that
        share their columns share this very tuple: they are then answered by one product.
    true: the columns that fit the first picture; for the measure, never shown to the model.
    kind: what the item is about; scores are reported by kind. sample: key of the sample that it was made of.
    """

    key: str
    images: tuple[Image, ...]
    texts: tuple[tuple[str, ...], ...]
    true: tuple[int, ...] = ()
    kind: str = ""
    sample: str = ""

    def with_images(self, other: Callable[[Image], Image]) -> ScoreRequest:
        """The same question about other pictures."""
        return replace(self, images=tuple(other(image) for image in self.images))


@dataclass(frozen=True)
class GenerateRequest:
    """How does this sample go on? Answered by the text that a model adds.

    sample: ends where the answer begins. true: right answers or references; for the measure, never shown to the model.
    boxes: how a model that has no convention of its own spells boxes, where the reply is to hold some: it is kept with
        these in the spelling that all models share, LOCATED. None where it is kept as it stands.
    """

    key: str
    sample: Sample
    max_tokens: int = 32
    kind: str = ""
    true: tuple[str, ...] = ()
    boxes: BoxFormat | None = None

    @property
    def images(self) -> tuple[Image, ...]:
        """All pictures, the frames or the poster of videos included."""
        parts = ((part.images if isinstance(part, Video) else (part,)) for part in self.sample.parts)
        return tuple(one for several in parts for one in several if isinstance(one, Image))

    def with_images(self, other: Callable[[Image], Image]) -> GenerateRequest:
        """The same question about other pictures."""

        def swapped(part: Part) -> Part:
            if isinstance(part, Video):
                return part.with_images(other)
            return other(part) if isinstance(part, Image) else part

        return replace(self, sample=replace(self.sample, parts=tuple(swapped(part) for part in self.sample.parts)))


@dataclass(frozen=True)
class ScoreOrGenerate(ScoreRequest):
    """A match that can also be asked in words, so that models of both sorts stand in one table.

    A model that embeds or scores answers the match; one that only generates answers `words`, and its reply is read as
    one of `choices`, of which each column of the match has one.
    words_only: the match is never asked, as where the order of the choices matters; its `true` column still holds.
    """

    words: GenerateRequest = field(kw_only=True)
    choices: tuple[str, ...] = field(kw_only=True)
    words_only: bool = field(default=False, kw_only=True)

    @classmethod
    def of(
        cls, match: ScoreRequest, words: GenerateRequest, choices: tuple[str, ...], *, words_only: bool = False
    ) -> Self:
        """A match with its form in words."""
        shared = match.key, match.images, match.texts, match.true, match.kind, match.sample
        return cls(*shared, words=words, choices=choices, words_only=words_only)

    def with_images(self, other: Callable[[Image], Image]) -> ScoreOrGenerate:
        """The same question, in both forms, about other pictures."""
        images = tuple(other(image) for image in self.images)
        return replace(self, images=images, words=self.words.with_images(other))


@dataclass(frozen=True)
class EmbedRequest:
    """Where does this picture lie in the model's space? Answered by (1, D). to_learn_from: it is no item of its own."""

    key: str
    images: tuple[Image, ...]
    kind: str = ""
    to_learn_from: bool = False

    def with_images(self, other: Callable[[Image], Image]) -> EmbedRequest:
        """The same question about other pictures."""
        return replace(self, images=tuple(other(image) for image in self.images))


@dataclass(frozen=True)
class Broken:
    """A sample that cannot be read: an item that no model is asked and that counts as wrong.

    to_learn_from: it would have been no item of its own, so nothing counts as wrong.
    """

    key: str
    reason: str
    to_learn_from: bool = False


@dataclass(frozen=True)
class Failed:
    """In place of an answer: why the question could not be asked."""

    reason: str


Request = ScoreRequest | GenerateRequest | EmbedRequest | Broken
Response = NDArray[np.float32] | str | Failed


@dataclass(frozen=True)
class Items:
    """What a metric averages over.

    keys: one an item, unique. samples: the sample of each; items of one sample are resampled together.
    kinds: what each is about. tied_I: several candidates share the best score. failed_I: could not be asked.
    said: what the model chose, in words. unparsed_I: replies in which no answer was found; they count as wrong.
    confidence_I: the probability that the model gave its choice, NaN where it gave none (see `confidence`).
    """

    keys: tuple[str, ...]
    samples: tuple[str, ...]
    kinds: tuple[str, ...]
    tied_I: NDArray[np.bool_]
    failed_I: NDArray[np.bool_]
    said: tuple[str, ...]
    unparsed_I: NDArray[np.bool_] | None = None
    confidence_I: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Corpus:
    """A figure of all items together that is no mean over them, such as BLEU: a function of what items add up to.

    counts_IS: what each item adds. of: (R, S) sums over items -> (R,) the figure. item: what a single item's figure is
        called, as the mean of these is another one ("sentence BLEU-4").
    """

    counts_IS: NDArray[np.float64]
    of: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    item: str


@dataclass(frozen=True)
class MetricCounts:
    """One metric, item by item.

    credit_I: what each item earned, 0 to 1 (CIDEr: to 10); where scores tie, the share of tie-breakings that would have
        earned it.
    chance_I: what a uniformly random scorer earns there, exact, from the number of candidates alone.
    mean: over all items, or the mean of the kinds' means. by_kind: whether each kind's score is reported too.
    weight_I: makes the metric a ratio, sum of credits by sum of weights, as precision is; 0 where all weights are 0.
    chance_weight_I: the same for chance. lenient: the metric where replies are read leniently; None without replies.
    corpus: makes the metric another function of all items than the mean of credits; its chance is 0.
    """

    name: str
    items: Items
    credit_I: NDArray[np.float64]
    chance_I: NDArray[np.float64]
    mean: Literal["items", "kinds"] = "items"
    by_kind: bool = False
    weight_I: NDArray[np.float64] | None = None
    chance_weight_I: NDArray[np.float64] | None = None
    lenient: MetricCounts | None = None
    corpus: Corpus | None = None


@dataclass(frozen=True)
class Measured:
    """What answers are worth. facts: figures that are no shares (counts, median ranks); nothing is judged by them."""

    metrics: tuple[MetricCounts, ...]
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Task(Component, ABC, package="chiasm.evaluation.tasks", key="task"):
    """A benchmark: which questions to ask of which data, and how to measure the answers.

    data: where the samples come from. name: what results call it, the module's name by default.
    limit: asks about this many samples, evenly spread over the data; None asks about all.
    """

    data: Source
    name: str = ""
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise RecipeError(f"the limit of task '{self.title}' must be at least 1, not {self.limit}")

    @property
    def title(self) -> str:
        """The name in results, unique in an evaluation."""
        return self.name or self.chosen()

    @cached_property
    def asked(self) -> tuple[Request, ...]:
        """The questions, made once. Raises DataError if the data hold nothing to ask about."""
        questions = tuple(self.questions())
        if all(isinstance(question, Broken) for question in questions):
            why = next((f": {one.reason}" for one in questions if isinstance(one, Broken)), "")
            raise DataError(f"task '{self.title}' finds nothing to ask about in {len(self.data)} samples{why}")
        return tuple(_unique(questions))

    def samples(self) -> Iterator[Sample | Broken]:
        """The samples to ask about; in place of one that cannot be read, its reason."""
        count = len(self.data)
        asked = count if self.limit is None else min(count, self.limit)
        for index in (at * count // asked for at in range(asked)):
            try:
                yield self.data[index]
            except DataError as error:
                yield Broken(f"sample {index}", str(error))

    def questions(self) -> Sequence[Request]:
        """All questions, in a fixed order."""
        found: list[Request] = []
        for sample in self.samples():
            try:
                found += [sample] if isinstance(sample, Broken) else list(self.ask(sample))
            except DataError as error:
                found.append(Broken(sample.key, str(error)))
        return found

    @abstractmethod
    def ask(self, sample: Sample) -> Iterable[Request]:
        """The questions about one sample. Raises DataError if it lacks what it must have."""

    @abstractmethod
    def measure(self, questions: Sequence[Request], answers: Sequence[Response]) -> Measured:
        """Every metric item by item, the headline first; which items there are depends on the questions alone."""

    @abstractmethod
    def examples(self, questions: Sequence[Request], answers: Sequence[Response], show: Show) -> Sequence[Example]:
        """A few items to look at, wrong ones first, the most confident of them leading."""

    def settings(self) -> Mapping[str, object]:
        """What of the task's recipe entry a score depends on; the data count by their content."""
        given = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "name"}
        return {name: dump(one) for name, one in given.items() if not isinstance(one, Source)}

    def constant(self, question: Request) -> Response:
        """What a model that never looks would answer: the same score for all, no words."""
        if isinstance(question, ScoreRequest):
            return np.zeros((len(question.images), len(question.texts)), np.float32)
        if isinstance(question, EmbedRequest):  # any other vector would do: a task may say which one it takes
            return np.ones((len(question.images), 1), np.float32)
        return "" if isinstance(question, GenerateRequest) else Failed(question.reason)

    def constants(self) -> Mapping[str, Sequence[Response]]:
        """Answers of models that never look, by the name of the baseline: "constant", and what else suits the task."""
        return {"constant": [self.constant(question) for question in self.asked]}


def image_key(image: Image) -> str:
    """What tells pictures apart: a hash of the content, or the name of one that cannot be read."""
    try:
        return image.key
    except DataError:
        return image.name


def part_key(part: Part) -> Hashable:
    """What tells parts apart: all that a model is shown of them, as plain values."""
    if isinstance(part, Image):
        return image_key(part)
    if isinstance(part, Video):
        return tuple(image_key(image) for image in part.images), part.seconds
    return part.role, part.text, tuple(astuple(mention) for mention in part.grounded_spans)


def _unique(questions: Iterable[Request]) -> Iterator[Request]:
    """The questions under keys of their own, whatever keys the source gives: the second "a" becomes "a#2"."""
    met: Counter[str] = Counter()
    for question in questions:
        met[question.key] += 1
        again = met[question.key]
        yield question if again == 1 else replace(question, key=f"{question.key}#{again}")
