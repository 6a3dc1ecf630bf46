"""Probes: questions with fixed choices, put as statements of which one is true of the picture.

In the manner of PUG (Bordes et al. 2023, arXiv:2308.03977): each kind of question tests one ability alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from chiasm.data.sample import Sample
from chiasm.evaluation.choice import Choice
from chiasm.evaluation.task import Match


@dataclass(frozen=True)
class Probes(Choice):
    """One item a question that comes with statements; accuracy over all and by kind. Chance is the mean of 1/k."""

    def ask(self, sample: Sample) -> Iterator[Match]:
        for number, question in enumerate(sample.questions):
            if question.statements:
                yield Match(
                    key=f"{sample.key}/{question.kind}/{number}",
                    images=(sample.image,),
                    texts=tuple((statement,) for statement in question.statements),
                    true=(question.choices.index(question.answer),),
                    kind=question.kind,
                    sample=sample.key,
                )
