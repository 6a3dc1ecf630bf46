"""Base class of tasks: requests to a model, and metrics of its responses. A task knows no model.

The same `measure` serves the model's responses and those of every baseline, so all figures of a task mean the same."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from chiasm.config import Component, dump
from chiasm.data.image import Image
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.errors import DataError, RecipeError
from chiasm.evaluation.request import Broken, Request, Response, of_type
from chiasm.evaluation.result import Example, TextOrImage
from chiasm.models.model import Loader

Show = Callable[[Image], TextOrImage]  # keeps an image for the report


@dataclass(frozen=True)
class Items:
    """What a metric averages over.

    keys: one an item, unique. samples: the sample of each; items of one sample are resampled together.
    kinds: what each is about. tied_I: several candidates share the best score. failed_I: could not be asked.
    choices: what the model chose or replied, in words. unparsed_I: replies in which no answer was found; they count as
        wrong. confidence: computes (I,) the probability that the model gave its choice, NaN where it gave none (see
        `confidence`); only asked for where it is reported, since the temperature is fitted then.
    """

    keys: tuple[str, ...]
    samples: tuple[str, ...]
    kinds: tuple[str, ...]
    tied_I: NDArray[np.bool_]
    failed_I: NDArray[np.bool_]
    choices: tuple[str, ...]
    unparsed_I: NDArray[np.bool_] | None = None
    confidence: Callable[[], NDArray[np.float64]] | None = None


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

    credit_I: what each item earned, 0 to `best` (1, of CIDEr 10); where scores tie, the share of tie-breakings that
        would have earned it.
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
    best: float = 1.0


@dataclass(frozen=True)
class Measured:
    """The metrics of responses. facts: figures that are no shares (counts, median ranks); nothing is judged by them."""

    metrics: tuple[MetricCounts, ...]
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Task(Component, ABC, package="chiasm.evaluation.tasks", key="task"):
    """A benchmark: which requests to make of which data, and how to measure the responses.

    data: where the samples come from. name: what results call it, the module's name by default.
    limit: the number of samples to use, evenly spread over the data; None uses all.
    """

    renamed_choices: ClassVar[Mapping[str, str]] = {"reading": "ocr"}

    data: Source
    name: str = ""
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise RecipeError(f"the limit of task '{self.title}' must be at least 1, not {self.limit}")

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:  # noqa: ARG003  # the built-in scenes need no files
        return {"data": {"source": "scenes", "seed": 1, "count": 8, "objects": [1, 2]}}

    @classmethod
    def other_settings(cls) -> Mapping[str, Any]:
        """Entries with other values than those of `example`, for settings whose type does not tell one: the contracts
        hold that the hash of what is asked moves with each setting."""
        return {}

    @property
    def title(self) -> str:
        """The name in results, unique in an evaluation."""
        return self.name or self.chosen()

    def use_loader(self, load: Loader) -> None:
        """Hands the task a function that opens the folder of a model that it needs, such as a judge. Most need none."""

    @cached_property
    def requests(self) -> tuple[Request, ...]:
        """All requests, made once. Raises DataError if the data hold nothing to ask about."""
        requests = tuple(self.build_all_requests())
        if not any(request.verbs for request in requests):
            why = next((f": {broken.reason}" for _, broken in of_type(requests, Broken)), "")
            raise DataError(f"task '{self.title}' finds nothing to ask about in {len(self.data)} samples{why}")
        return tuple(_unique(requests))

    def samples(self) -> Iterator[Sample | Broken]:
        """The samples to ask about; for one that cannot be read, the reason."""
        count = len(self.data)
        used = count if self.limit is None else min(count, self.limit)
        for index in (at * count // used for at in range(used)):
            try:
                yield self.data[index]
            except DataError as error:
                yield Broken(f"sample {index}", str(error))

    def build_all_requests(self) -> Sequence[Request]:
        """All requests, in a fixed order."""
        found: list[Request] = []
        for sample in self.samples():
            try:
                found += [sample] if isinstance(sample, Broken) else list(self.construct_requests(sample))
            except DataError as error:
                found.append(Broken(sample.key, str(error)))
        return found

    @abstractmethod
    def construct_requests(self, sample: Sample) -> Iterable[Request]:
        """The requests about one sample. Raises DataError if it lacks what it must have."""

    @abstractmethod
    def measure(self, requests: Sequence[Request], responses: Sequence[Response]) -> Measured:
        """Every metric item by item, the headline first; which items there are depends on the requests alone."""

    @abstractmethod
    def examples(self, requests: Sequence[Request], responses: Sequence[Response], show: Show) -> Sequence[Example]:
        """A few items to look at, wrong ones first, the most confident of them leading."""

    def settings(self) -> Mapping[str, object]:
        """What of the task's recipe entry a score depends on; the data count by their content."""
        entries = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "name"}
        return {name: dump(entry) for name, entry in entries.items() if not isinstance(entry, Source)}

    def constant(self, request: Request) -> Response:
        """What a model that never looks would answer: by default what the request says."""
        return request.constant()

    def constants(self) -> Mapping[str, Sequence[Response]]:
        """Responses of models that never look, by the name of the baseline: "constant", and what suits the task."""
        return {"constant": [self.constant(request) for request in self.requests]}


def _unique(requests: Iterable[Request]) -> Iterator[Request]:
    """The requests under keys of their own, whatever keys the source gives: the second "a" becomes "a#2"."""
    counts: Counter[str] = Counter()
    for request in requests:
        counts[request.key] += 1
        count = counts[request.key]
        yield request if count == 1 else replace(request, key=f"{request.key}#{count}")
