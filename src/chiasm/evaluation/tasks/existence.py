"""Existence: is there a ... in the image? Half of the things asked after are not there (POPE, arXiv:2305.10355).

Li et al. 2023. Unlike the official scripts, a reply that says neither yes nor no is not read as yes, and
"an" takes no other "a" of the sentence with it (the official questions ask of "the imange")."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from chiasm.data.image import Image
from chiasm.data.sample import Sample, Text
from chiasm.errors import DataError, RecipeError
from chiasm.evaluation.answers import YES_NO, ChoiceRule
from chiasm.evaluation.choice import Choice, as_scores, padded
from chiasm.evaluation.polling import SPLITS, Polling, Split
from chiasm.evaluation.ranking import rank
from chiasm.evaluation.request import GenerateRequest, Request, Response, ScoreOrGenerate, ScoreRequest
from chiasm.evaluation.task import Measured, MetricCounts

_CHOICES = ("yes", "no")
_Counts = tuple[NDArray[np.float64], NDArray[np.float64]]  # of each item: answered yes, is yes


@dataclass(frozen=True)
class Existence(Choice):
    """Accuracy, then F1, precision and recall of "yes"; accuracy and F1 by how absent things were chosen.

    polls: "boxes" builds the questions from the boxes of the data: of every image with at least `each` different
        phrases, the first `each` of them, and as many absent ones, once a split. "questions" takes the samples' own
        yes/no questions, as those of the source `pope`.
    head: asks after the last word of a phrase alone, "circle" for "small red circle".
    template: the question, {} being the thing with its article; ending: what is added for models that answer in words.
    form: "statements" or "words" asks every model so; else one that embeds or scores is asked whether "there is a dog"
        or "there is no dog" fits.
    The facts hold the share of yes among the answers and, which is not the same, among the right answers.
    """

    polls: Literal["boxes", "questions"] = "boxes"
    each: int = 3
    splits: tuple[Split, ...] = SPLITS
    head: bool = False
    seed: int = 0
    template: str = "Is there {} in the image?"
    ending: str = " Answer with yes or no."
    form: Literal["either", "statements", "words"] = "either"
    rule: ClassVar[ChoiceRule] = YES_NO

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:  # noqa: ARG003  # the built-in scenes need no files
        """Scenes that hold enough things, each called by its shape alone."""
        return {"data": {"source": "scenes", "seed": 1, "count": 12, "objects": [4, 6]}, "head": True, "each": 2}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.each < 1 or not self.splits or "{}" not in self.template:
            raise RecipeError(
                f"task '{self.title}' needs at least one split, each of 1 or more, and a template with {{}} in it"
            )

    def construct_requests(self, sample: Sample) -> Iterator[ScoreRequest]:
        if self.polls == "questions":
            yield from self._own_questions(sample)
            return
        things = self._things(sample)
        if len(things) < self.each:
            return
        for split in self.splits:
            seed = hashlib.blake2b(f"{self.seed}/{split}/{sample.key}".encode(), digest_size=8).digest()
            draw = np.random.default_rng(int.from_bytes(seed)).integers
            polled = self._polling.poll(things, split, self.each, draw)
            for number, (name, there) in enumerate(polled):
                text = self.template.format(_with_article(name))
                statements = f"there is {_with_article(name)}", f"there is no {name}"
                yield self._request(f"{sample.key}/{split}/{number}", sample, text, statements, there, split)

    def measure(self, requests: Sequence[Request], responses: Sequence[Response]) -> Measured:
        accuracy = self.accuracy(requests, responses)
        strict = _counts(requests, as_scores(requests, responses, self.rule))
        ratios = list(_ratios(accuracy, strict))
        if accuracy.lenient is not None:
            lenient = _counts(requests, as_scores(requests, responses, self.rule, lenient=True))
            more = _ratios(accuracy.lenient, lenient)
            ratios = [replace(ratio, lenient=other) for ratio, other in zip(ratios, more, strict=True)]
        yes_I, is_I = strict
        asked_I = np.array([bool(request.verbs) for request in requests])
        facts = {
            "yes share of answers": float(yes_I[asked_I].mean()),
            "yes share of right answers": float(is_I[asked_I].mean()),
        }
        kinds = np.array(accuracy.items.kinds)
        for kind in sorted(set(kinds[asked_I].tolist()) - {""}):
            facts[f"yes share of answers ({kind})"] = float(yes_I[kinds == kind].mean())
        return Measured((accuracy, *ratios), facts)

    def constants(self) -> Mapping[str, Sequence[Response]]:
        def always(row: tuple[float, float]) -> list[Response]:
            scores = np.array([row], np.float32)
            return [scores if request.verbs else self.constant(request) for request in self.requests]

        return {**super().constants(), "always yes": always((1, 0)), "always no": always((0, 1))}

    def _things(self, sample: Sample) -> list[str]:
        phrases = (box.phrase.strip() for box in sample.boxes)
        return list(dict.fromkeys(phrase.split()[-1] if self.head else phrase for phrase in phrases if phrase))

    @cached_property
    def _polling(self) -> Polling:
        shown = [self._things(sample) for sample in self.samples() if isinstance(sample, Sample)]
        return Polling([things for things in shown if len(things) >= self.each])

    def _own_questions(self, sample: Sample) -> Iterator[ScoreRequest]:
        for number, question in enumerate(sample.questions):
            if set(question.choices) != set(_CHOICES):
                continue
            if not question.statements and self.form != "words":
                raise DataError(f"sample '{sample.key}': the question '{question.text}' has no statements to score")
            statement = dict(zip(question.choices, question.statements or question.choices, strict=True))
            key, both = f"{sample.key}/{question.kind}/{number}", (statement["yes"], statement["no"])
            yield self._request(key, sample, question.text, both, question.answer == "yes", question.kind)

    def _request(
        self, key: str, sample: Sample, text: str, statements: tuple[str, str], there: bool, kind: str
    ) -> ScoreRequest:
        texts = tuple((statement,) for statement in statements)
        true = (0 if there else 1,)
        scored = ScoreRequest(key, (sample.image,), texts, true, kind=kind, sample_key=sample.key)
        if self.form == "statements":
            return scored
        words = GenerateRequest(key, _prompt(key, sample.image, text + self.ending), max_tokens=16, kind=kind)
        return ScoreOrGenerate.of(scored, words, _CHOICES, words_only=self.form == "words")


def _prompt(key: str, image: Image, text: str) -> Sample:
    return Sample(key, (image, Text(text, "user")))


def _with_article(name: str) -> str:
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _counts(requests: Sequence[Request], scores: Sequence[Response]) -> _Counts:
    """Of each item how far the answer was yes (1/2 where it ties), and whether yes is right; 0 where not asked."""
    scores_I2, true_I2 = padded(requests, scores)
    yes_I2 = np.zeros_like(true_I2)
    yes_I2[:, 0] = True
    return rank(scores_I2, yes_I2).hits(1), true_I2[:, 0].astype(np.float64)


def _ratios(accuracy: MetricCounts, counts: _Counts) -> Iterator[MetricCounts]:
    """F1, precision and recall as ratios of sums: 2 TP / (yes + is), TP / yes, TP / is."""
    yes_I, is_I = counts
    asked_I = np.array([float(chance > 0) for chance in accuracy.chance_I])
    half_I = asked_I / 2  # how often a coin says yes
    ratio = partial(MetricCounts, items=accuracy.items)
    yield ratio(
        "F1",
        credit_I=2 * yes_I * is_I,
        weight_I=yes_I + is_I,
        chance_I=2 * half_I * is_I,
        chance_weight_I=half_I + is_I,
        by_kind=True,
    )
    yield ratio("precision", credit_I=yes_I * is_I, weight_I=yes_I, chance_I=half_I * is_I, chance_weight_I=half_I)
    yield ratio("recall", credit_I=yes_I * is_I, weight_I=is_I, chance_I=half_I * is_I, chance_weight_I=is_I)
