"""Base of tasks with free-form answers, measured against people's answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from chiasm.data.sample import Part, Sample, Text
from chiasm.errors import RecipeError
from chiasm.evaluation.answers import Extraction
from chiasm.evaluation.examples import COMMON, RIGHT, WRONG
from chiasm.evaluation.request import GenerateRequest, Request, Response, of_type
from chiasm.evaluation.result import Example
from chiasm.evaluation.task import Corpus, Items, Measured, MetricCounts, Show, Task

_REFERENCES = 5  # shown with an example


@dataclass(frozen=True)
class LenientCredit:
    """A metric of replies that were read leniently. unparsed_A: those in which no answer was found; they earn 0."""

    credit_A: NDArray[np.float64]
    unparsed_A: NDArray[np.bool_]


@dataclass(frozen=True)
class Figure:
    """One metric of the replies to A requests. credit_A: what each earns. corpus: where the metric is not their mean.

    lenient: the same metric, read leniently; None where replies count as they stand. best: the most that one can earn.
    """

    name: str
    credit_A: NDArray[np.float64]
    corpus: Corpus | None = None
    lenient: LenientCredit | None = None
    best: float = 1.0


@dataclass(frozen=True)
class OpenEnded(Task, ABC):
    """A task of generate requests, each with people's answers. Without a rule a reply counts as it stands, but for
    blanks around it.

    No reply is drawn by chance, so chance is 0; the constant answer is what to hold a score against.
    A request that could not be made earns 0, as an empty reply does.
    max_tokens: after which a reply is cut off. rule: how replies are read, if they are; what it does not find earns 0.
    """

    max_tokens: int = 32
    rule: ClassVar[Extraction | None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_tokens < 1:
            raise RecipeError(f"max_tokens of task '{self.title}' must be at least 1, not {self.max_tokens}")

    def put(
        self, sample: Sample, key: str, prompt: str, references: tuple[str, ...], kind: str = ""
    ) -> GenerateRequest:
        """Asks about the sample's images: they come first, then the prompt, if there is one, by the user."""
        parts: tuple[Part, ...] = (*sample.images, Text(prompt, "user")) if prompt else sample.images
        return GenerateRequest(
            key, Sample(sample.key, parts), self.max_tokens, references, kind=kind, sample_key=sample.key
        )

    @abstractmethod
    def figures(self, requests: Sequence[GenerateRequest], replies: Sequence[str]) -> Sequence[Figure]:
        """Every metric of the replies, the headline first; "" is what stands where there is no reply."""

    def facts(self) -> Mapping[str, float]:
        """Figures to know beside the scores, whatever was replied."""
        return {}

    def right_from(self) -> NDArray[np.float64] | float:
        """The credit from which an item is shown as right, the same for all or (I,)."""
        return 0.5

    def measure(self, requests: Sequence[Request], responses: Sequence[Response]) -> Measured:
        asked = of_type(requests, GenerateRequest)
        replies = tuple(response.strip() if isinstance(response, str) else "" for response in responses)
        items = Items(
            keys=tuple(request.key for request in requests),
            samples=tuple(request.cluster for request in requests),
            kinds=tuple(request.kind for request in requests),
            tied_I=np.zeros(len(requests), np.bool_),
            failed_I=np.array([not isinstance(response, str) for response in responses], np.bool_),
            choices=replies,
            unparsed_I=None
            if self.rule is None
            else np.array([_holds_none(self.rule, response) for response in responses]),
        )
        indices = [item for item, _ in asked]
        found = self.figures([request for _, request in asked], [replies[item] for item in indices])
        return Measured(tuple(_of_all_items(figure, items, indices) for figure in found), self.facts())

    def examples(self, requests: Sequence[Request], responses: Sequence[Response], show: Show) -> Sequence[Example]:
        first = self.measure(requests, responses).metrics[0]
        right_I = first.credit_I >= self.right_from()
        name = first.name if first.corpus is None else first.corpus.item
        found, asked = [], dict(of_type(requests, GenerateRequest))
        for item in _picked(first):
            request = asked[item]
            query = show(request.all_images[0])
            if query.picture and request.sample.texts:
                query = replace(query, text=request.sample.texts[-1].text)
            found.append(
                Example(
                    key=request.key,
                    right=bool(right_I[item]),
                    query=query,
                    candidates=(),
                    group=request.kind,
                    reply=first.items.choices[item],
                    references=tuple(dict.fromkeys(request.references))[:_REFERENCES],
                    earned=f"{name} {100 * first.credit_I[item]:.1f}",
                )
            )
        return found


def _of_all_items(figure: Figure, items: Items, indices: Sequence[int]) -> MetricCounts:
    """The figure as one of all items; those that were not asked earn nothing and add nothing."""

    def spread(values_A: NDArray[np.float64] | NDArray[np.bool_]) -> NDArray[np.float64]:
        values_I = np.zeros((len(items.keys), *values_A.shape[1:]))
        values_I[list(indices)] = values_A
        return values_I

    corpus = figure.corpus and replace(figure.corpus, counts_IS=spread(figure.corpus.counts_IS))
    credit_I = spread(figure.credit_A)
    chance_I = np.zeros_like(credit_I)
    metric = MetricCounts(figure.name, items, credit_I, chance_I, by_kind=True, corpus=corpus, best=figure.best)
    if figure.lenient is None or items.failed_I.all():
        return metric
    unparsed_I = spread(figure.lenient.unparsed_A).astype(np.bool_) & ~items.failed_I
    lenient = replace(metric, items=replace(items, unparsed_I=unparsed_I), credit_I=spread(figure.lenient.credit_A))
    return replace(metric, lenient=lenient)


def _holds_none(rule: Extraction, response: Response) -> bool:
    return isinstance(response, str) and rule.strict(response) is None


def _picked(metric: MetricCounts) -> list[int]:
    """Items to show, the worst first: the worst, some of the best, and some drawn whatever the model replied."""
    replied = np.flatnonzero(~metric.items.failed_I)
    worst_first = replied[np.argsort(metric.credit_I[replied], kind="stable")].tolist()
    common = np.random.default_rng(1).permutation(replied)[:COMMON].tolist()
    chosen = {*worst_first[:WRONG], *worst_first[-RIGHT:], *common}
    return [item for item in worst_first if item in chosen]
