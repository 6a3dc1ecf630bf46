"""Base of tasks on the samples' own questions, answered in a word or two (VQA, OCR)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from chiasm.data.sample import Sample
from chiasm.errors import DataError, RecipeError
from chiasm.evaluation.answers import NUMBER, PHRASE, Extraction
from chiasm.evaluation.metrics.ocr import as_number
from chiasm.evaluation.open_ended import Figure, LenientCredit, OpenEnded
from chiasm.evaluation.request import GenerateRequest, Request, Response, of_type

_QUESTION = "{question}"


@dataclass(frozen=True)
class AnswerMetric:
    """A metric of single answers. earns: (an answer, people's answers) -> what it is worth.

    numeric: whether the lenient rule looks for a number where all of people's answers are numbers.
    """

    name: str
    earns: Callable[[str, Sequence[str]], float]
    numeric: bool = False

    def rule(self, request: GenerateRequest) -> Extraction:
        """How replies to a request are read; strictly, all alike."""
        numeric = self.numeric and all(as_number(answer.strip()) is not None for answer in request.references)
        return NUMBER if numeric else PHRASE


@dataclass(frozen=True)
class Answering(OpenEnded, ABC):
    """One item a question of each sample. The constant answer is the one that people gave most often to its kind.

    Each metric is of the replies read strictly, the whole reply being the answer; read leniently it stands beside that.
    prompt: a template with {question}.
    """

    rule: ClassVar[Extraction] = PHRASE

    max_tokens: int = 10
    prompt: str = "{question}\nAnswer the question using a single word or phrase."

    def __post_init__(self) -> None:
        super().__post_init__()
        if _QUESTION not in self.prompt:
            raise RecipeError(f"the prompt of task '{self.title}' needs {_QUESTION} in the question's place")

    @abstractmethod
    def answer_metrics(self) -> Sequence[AnswerMetric]:
        """The metrics of single answers, the headline first."""

    def figures(self, requests: Sequence[GenerateRequest], replies: Sequence[str]) -> Sequence[Figure]:
        strict = [self.rule.strict(reply) for reply in replies]
        found = []
        for metric in self.answer_metrics():
            pairs = zip(requests, replies, strict=True)
            lenient = [metric.rule(request).lenient(reply) for request, reply in pairs]
            unparsed_A = np.array([answer is None for answer in lenient], np.bool_)
            leniently = LenientCredit(_earned(metric, requests, lenient), unparsed_A)
            found.append(Figure(metric.name, _earned(metric, requests, strict), lenient=leniently))
        return found

    def construct_requests(self, sample: Sample) -> Iterator[GenerateRequest]:
        if not sample.questions:
            raise DataError(f"sample '{sample.key}' has no questions")
        for number, question in enumerate(sample.questions):
            prompt = self.prompt.replace(_QUESTION, question.text)
            references = question.answers or (question.answer,)
            yield self.put(sample, f"{sample.key}/{number}", prompt, references, question.kind)

    def facts(self) -> Mapping[str, float]:
        counts = [len(request.references) for _, request in of_type(self.requests, GenerateRequest)]
        return {"answers a question": float(np.mean(counts))}

    def constant(self, request: Request) -> Response:
        return self._commonest[request.kind] if request.verbs else super().constant(request)

    @cached_property
    def _commonest(self) -> dict[str, str]:
        counts: dict[str, Counter[str]] = {}
        for _, request in of_type(self.requests, GenerateRequest):
            counts.setdefault(request.kind, Counter()).update(request.references)
        return {kind: count.most_common(1)[0][0] for kind, count in counts.items()}


def _earned(
    metric: AnswerMetric, requests: Sequence[GenerateRequest], answers: Sequence[str | None]
) -> NDArray[np.float64]:
    """(A,) the credit of each answer; 0 where none was found."""
    pairs = zip(answers, requests, strict=True)
    earned = [0.0 if answer is None else metric.earns(answer, request.references) for answer, request in pairs]
    return np.array(earned, np.float64)
