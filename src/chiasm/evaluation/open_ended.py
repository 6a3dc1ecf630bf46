"""Tasks that are answered in words of one's own, and measured against what people said."""

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
from chiasm.evaluation.result import Example
from chiasm.evaluation.task import Corpus, GenerateRequest, Items, Measured, MetricCounts, Request, Response, Show, Task

_REFERENCES = 5  # shown with an example


@dataclass(frozen=True)
class Read:
    """A metric of replies that were read leniently. unparsed_A: those in which no answer was found; they earn 0."""

    credit_A: NDArray[np.float64]
    unparsed_A: NDArray[np.bool_]


@dataclass(frozen=True)
class Figure:
    """One metric of the replies to A asks. credit_A: what each earns. corpus: where the metric is not their mean.

    lenient: the same metric of the lenient reading; None where replies count as they stand.
    """

    name: str
    credit_A: NDArray[np.float64]
    corpus: Corpus | None = None
    lenient: Read | None = None


@dataclass(frozen=True)
class OpenEnded(Task, ABC):
    """A task of asks, each with what people said. Without a rule a reply counts as it stands, but for blanks around it.

    No reply is drawn by chance, so chance is 0; the constant answer is what to hold a score against.
    A question that could not be asked earns 0, as an empty reply does.
    max_tokens: after which a reply is cut off. rule: how replies are read, if they are; what it does not find earns 0.
    """

    max_tokens: int = 32
    rule: ClassVar[Extraction | None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_tokens < 1:
            raise RecipeError(f"max_tokens of task '{self.title}' must be at least 1, not {self.max_tokens}")

    def put(self, sample: Sample, key: str, words: str, true: tuple[str, ...], kind: str = "") -> GenerateRequest:
        """Asks about the sample's pictures: they come first, then the words, if there are any, by the user."""
        parts: tuple[Part, ...] = (*sample.images, Text(words, "user")) if words else sample.images
        return GenerateRequest(key, Sample(sample.key, parts), self.max_tokens, kind, true)

    @abstractmethod
    def figures(self, asked: Sequence[GenerateRequest], replies: Sequence[str]) -> Sequence[Figure]:
        """Every metric of the replies, the headline first; "" is what stands where there is no reply."""

    def facts(self) -> Mapping[str, float]:
        """Figures to know beside the scores, whatever was replied."""
        return {}

    def right_from(self) -> NDArray[np.float64] | float:
        """The credit from which an item is shown as right, the same for all or (I,)."""
        return 0.5

    def measure(self, questions: Sequence[Request], answers: Sequence[Response]) -> Measured:
        at = [item for item, question in enumerate(questions) if isinstance(question, GenerateRequest)]
        asked = [question for question in questions if isinstance(question, GenerateRequest)]
        said = tuple(answer.strip() if isinstance(answer, str) else "" for answer in answers)
        items = Items(
            keys=tuple(question.key for question in questions),
            samples=tuple(one.sample.key if isinstance(one, GenerateRequest) else one.key for one in questions),
            kinds=tuple(one.kind if isinstance(one, GenerateRequest) else "" for one in questions),
            tied_I=np.zeros(len(questions), np.bool_),
            failed_I=np.array([not isinstance(answer, str) for answer in answers], np.bool_),
            said=said,
            unparsed_I=None if self.rule is None else np.array([_says_none(self.rule, answer) for answer in answers]),
        )
        found = self.figures(asked, [said[item] for item in at])
        return Measured(tuple(_tally(figure, items, at) for figure in found), self.facts())

    def examples(self, questions: Sequence[Request], answers: Sequence[Response], show: Show) -> Sequence[Example]:
        first = self.measure(questions, answers).metrics[0]
        right_I = first.credit_I >= self.right_from()
        name = first.name if first.corpus is None else first.corpus.item
        found = []
        for item in _picked(first):
            question = questions[item]
            assert isinstance(question, GenerateRequest)  # others have failed, and so are not picked
            query = show(question.images[0])
            if query.picture and question.sample.texts:
                query = replace(query, text=question.sample.texts[-1].text)
            found.append(
                Example(
                    key=question.key,
                    right=bool(right_I[item]),
                    query=query,
                    candidates=(),
                    group=question.kind,
                    reply=first.items.said[item],
                    references=tuple(dict.fromkeys(question.true))[:_REFERENCES],
                    earned=f"{name} {100 * first.credit_I[item]:.1f}",
                )
            )
        return found


def _tally(figure: Figure, items: Items, at: Sequence[int]) -> MetricCounts:
    """The figure as one of all items; those that were not asked earn nothing and add nothing."""

    def spread(values_A: NDArray[np.float64] | NDArray[np.bool_]) -> NDArray[np.float64]:
        values_I = np.zeros((len(items.keys), *values_A.shape[1:]))
        values_I[list(at)] = values_A
        return values_I

    corpus = figure.corpus and replace(figure.corpus, counts_IS=spread(figure.corpus.counts_IS))
    credit_I = spread(figure.credit_A)
    metric = MetricCounts(figure.name, items, credit_I, np.zeros_like(credit_I), by_kind=True, corpus=corpus)
    if figure.lenient is None or items.failed_I.all():
        return metric
    unparsed_I = spread(figure.lenient.unparsed_A).astype(np.bool_) & ~items.failed_I
    read = replace(metric, items=replace(items, unparsed_I=unparsed_I), credit_I=spread(figure.lenient.credit_A))
    return replace(metric, lenient=read)


def _says_none(rule: Extraction, answer: Response) -> bool:
    return isinstance(answer, str) and rule.strict(answer) is None


def _picked(metric: MetricCounts) -> list[int]:
    """Items to show, the worst first: the worst, some of the best, and some drawn whatever the model said."""
    replied = np.flatnonzero(~metric.items.failed_I)
    worst_first = replied[np.argsort(metric.credit_I[replied], kind="stable")].tolist()
    common = np.random.default_rng(1).permutation(replied)[:COMMON].tolist()
    chosen = {*worst_first[:WRONG], *worst_first[-RIGHT:], *common}
    return [item for item in worst_first if item in chosen]
