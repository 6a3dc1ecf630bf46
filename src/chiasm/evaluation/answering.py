"""Tasks that put the record's questions, to be answered in a word or two."""

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
from chiasm.evaluation.open_ended import Figure, OpenEnded, Read
from chiasm.evaluation.task import GenerateRequest, Request, Response

_QUESTION = "{question}"


@dataclass(frozen=True)
class Measure:
    """A metric of single answers. earns: (an answer, what people said) -> what it is worth.

    numeric: whether the lenient reading looks for a number where all that people said are numbers.
    """

    name: str
    earns: Callable[[str, Sequence[str]], float]
    numeric: bool = False

    def rule(self, question: GenerateRequest) -> Extraction:
        """How replies to a question are read; strictly, all alike."""
        numeric = self.numeric and all(as_number(one.strip()) is not None for one in question.true)
        return NUMBER if numeric else PHRASE


@dataclass(frozen=True)
class Answering(OpenEnded, ABC):
    """One item a question of each sample. The constant answer is the one that people gave most often to its kind.

    Each metric is of the strict reading, the whole reply being the answer; the lenient reading stands beside it.
    prompt: with {question} in its place.
    """

    rule: ClassVar[Extraction] = PHRASE

    max_tokens: int = 10
    prompt: str = "{question}\nAnswer the question using a single word or phrase."

    def __post_init__(self) -> None:
        super().__post_init__()
        if _QUESTION not in self.prompt:
            raise RecipeError(f"the prompt of task '{self.title}' needs {_QUESTION} in the question's place")

    @abstractmethod
    def measures(self) -> Sequence[Measure]:
        """The metrics, the headline first."""

    def figures(self, asked: Sequence[GenerateRequest], replies: Sequence[str]) -> Sequence[Figure]:
        strict = [self.rule.strict(reply) for reply in replies]
        found = []
        for one in self.measures():
            lenient = [one.rule(question).lenient(reply) for question, reply in zip(asked, replies, strict=True)]
            read = Read(_earned(one, asked, lenient), np.array([answer is None for answer in lenient], np.bool_))
            found.append(Figure(one.name, _earned(one, asked, strict), lenient=read))
        return found

    def ask(self, sample: Sample) -> Iterator[GenerateRequest]:
        if not sample.questions:
            raise DataError(f"sample '{sample.key}' has no questions")
        for number, question in enumerate(sample.questions):
            words = self.prompt.replace(_QUESTION, question.text)
            true = question.answers or (question.answer,)
            yield self.put(sample, f"{sample.key}/{number}", words, true, question.kind)

    def facts(self) -> Mapping[str, float]:
        return {
            "answers a question": float(
                np.mean([len(one.true) for one in self.asked if isinstance(one, GenerateRequest)])
            )
        }

    def constant(self, question: Request) -> Response:
        return self._commonest[question.kind] if isinstance(question, GenerateRequest) else super().constant(question)

    @cached_property
    def _commonest(self) -> dict[str, str]:
        counts: dict[str, Counter[str]] = {}
        for question in self.asked:
            if isinstance(question, GenerateRequest):
                counts.setdefault(question.kind, Counter()).update(question.true)
        return {kind: count.most_common(1)[0][0] for kind, count in counts.items()}


def _earned(measure: Measure, asked: Sequence[GenerateRequest], answers: Sequence[str | None]) -> NDArray[np.float64]:
    """(A,) what each answer earns: nothing where none was found."""
    pairs = zip(answers, asked, strict=True)
    return np.array([0.0 if one is None else measure.earns(one, question.true) for one, question in pairs], np.float64)
