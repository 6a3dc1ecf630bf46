"""Tasks that put the record's questions, to be answered in a word or two."""

from __future__ import annotations

from abc import ABC
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from chiasm.data.sample import Sample
from chiasm.errors import DataError, RecipeError
from chiasm.evaluation.open_ended import OpenEnded
from chiasm.evaluation.task import Answer, Ask, Question

_QUESTION = "{question}"


@dataclass(frozen=True)
class Answering(OpenEnded, ABC):
    """One item a question of each sample. The constant answer is the one that people gave most often to its kind.

    prompt: with {question} in its place.
    """

    max_tokens: int = 10
    prompt: str = "{question}\nAnswer the question using a single word or phrase."

    def __post_init__(self) -> None:
        super().__post_init__()
        if _QUESTION not in self.prompt:
            raise RecipeError(f"the prompt of task '{self.title}' needs {_QUESTION} in the question's place")

    def ask(self, sample: Sample) -> Iterator[Ask]:
        if not sample.questions:
            raise DataError(f"sample '{sample.key}' has no questions")
        for number, question in enumerate(sample.questions):
            words = self.prompt.replace(_QUESTION, question.text)
            true = question.answers or (question.answer,)
            yield self.put(sample, f"{sample.key}/{number}", words, true, question.kind)

    def facts(self) -> Mapping[str, float]:
        return {"answers a question": float(np.mean([len(one.true) for one in self.asked if isinstance(one, Ask)]))}

    def constant(self, question: Question) -> Answer:
        return self._commonest[question.kind] if isinstance(question, Ask) else super().constant(question)

    @cached_property
    def _commonest(self) -> dict[str, str]:
        counts: dict[str, Counter[str]] = {}
        for question in self.asked:
            if isinstance(question, Ask):
                counts.setdefault(question.kind, Counter()).update(question.true)
        return {kind: count.most_common(1)[0][0] for kind, count in counts.items()}
