"""Probes: questions with fixed choices, put as statements of which one is true, or in words with the choices listed.

In the manner of PUG (Bordes et al. 2023, arXiv:2308.03977): each kind of question tests one ability alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from chiasm.data.sample import Sample, Text
from chiasm.errors import DataError
from chiasm.evaluation.answers import TEXT, ChoiceRule
from chiasm.evaluation.choice import Choice
from chiasm.evaluation.request import GenerateRequest, ScoreOrGenerate, ScoreRequest


@dataclass(frozen=True)
class Probes(Choice):
    """One item a question that comes with statements; accuracy over all and by kind. Chance is the mean of 1/k.

    A model that embeds or scores is asked which statement fits; one that only generates is asked the question, and its
    reply must be one of the choices.
    by: reports scores by this entry of the samples' meta, such as the scenes' `objects`, or by their "label", in place
        of the kind of question.
    form: "statements" or "words" asks every model so; a model that cannot be asked so is refused.
    """

    by: str = ""
    form: Literal["either", "statements", "words"] = "either"
    rule: ClassVar[ChoiceRule] = TEXT

    @classmethod
    def other_settings(cls) -> Mapping[str, Any]:
        return {"by": "objects"}

    def construct_requests(self, sample: Sample) -> Iterator[ScoreRequest]:
        fact = sample.fact(self.by) if self.by else None
        if self.by and sample.questions and fact is None:
            raise DataError(f"sample '{sample.key}' has no {self.by} to report scores by")
        for number, question in enumerate(sample.questions):
            if not question.statements:
                continue
            kind = f"{fact} {self.by}" if self.by else question.kind
            scored = ScoreRequest(
                key=f"{sample.key}/{question.kind}/{number}",
                images=(sample.image,),
                texts=tuple((statement,) for statement in question.statements),
                true=(question.choices.index(question.answer),),
                kind=kind,
                sample_key=sample.key,
            )
            if self.form == "statements":
                yield scored
                continue
            prompt = f"{question.text}\nAnswer with one of these and nothing else: {', '.join(question.choices)}."
            words = GenerateRequest(
                scored.key, Sample(scored.key, (sample.image, Text(prompt, "user"))), max_tokens=24, kind=kind
            )
            yield ScoreOrGenerate.of(scored, words, question.choices, words_only=self.form == "words")
