"""Multiple choice: a question with lettered options (MMBench, ScienceQA, SEED-Bench); the letter is the answer.

Circular evaluation (Liu et al. 2023, arXiv:2307.06281): an item counts only if it is right under every rotation of
its options, so that a model that likes one letter gains nothing."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from chiasm.data.sample import Question, Sample, Text
from chiasm.errors import DataError, RecipeError
from chiasm.evaluation.answers import LETTER, LETTERS, ChoiceRule
from chiasm.evaluation.choice import Choice, as_scores
from chiasm.evaluation.request import GenerateRequest, Request, Response, ScoreOrGenerate, ScoreRequest, of_type
from chiasm.evaluation.task import Items, Measured, MetricCounts


@dataclass(frozen=True)
class MultipleChoice(Choice):
    """One item a question with choices; accuracy over all and by kind. Chance is the mean of 1/k.

    order: of the options. "shuffled": by a hash of the question's key, the same for every model; "given": as the data
        have it; "circular": the question is asked in all rotations of the given order, and chance is k^-k. Circular
        evaluation is for models that answer in words: a score of an option does not depend on its letter.
    form: "statements" or "words" asks every model so; else one that embeds or scores is asked which option fits, by
        the question's statements or, without them, the question and the option in one line.
    """

    order: Literal["shuffled", "given", "circular"] = "shuffled"
    form: Literal["either", "statements", "words"] = "either"
    ending: str = "Answer with the option's letter."
    rule: ClassVar[ChoiceRule] = LETTER

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order == "circular" and self.form != "words":
            raise RecipeError(
                f"task '{self.title}': scores of options do not depend on their order; say form: words for "
                "order: circular, or order: shuffled for models that score"
            )

    def construct_requests(self, sample: Sample) -> Iterator[ScoreRequest]:
        for number, question in enumerate(question for question in sample.questions if question.choices):
            if len(question.choices) > len(LETTERS):
                raise DataError(
                    f"sample '{sample.key}' has a question with {len(question.choices)} choices; 26 have letters"
                )
            key = f"{sample.key}/{number}"
            for turn, order in enumerate(self._orders(key, len(question.choices))):
                yield self._request(f"{key}@{turn}" if self.order == "circular" else key, sample, question, order)

    def measure(self, requests: Sequence[Request], responses: Sequence[Response]) -> Measured:
        plain = self.accuracy(requests, responses)
        facts = self._letters(requests, responses)
        if self.order != "circular":
            return Measured((plain,), facts)
        return Measured((_circular(plain), replace(plain, name="accuracy of single rotations", by_kind=False)), facts)

    def constants(self) -> Mapping[str, Sequence[Response]]:
        first = [self.constant(request) for request in self.requests]
        for at, request in of_type(self.requests, ScoreRequest):
            first[at] = np.array([[1, *[0] * (len(request.texts) - 1)]], np.float32)
        return {**super().constants(), "always A": first}

    def _letters(self, requests: Sequence[Request], responses: Sequence[Response]) -> dict[str, float]:
        """How often each letter was the reply, of all letters replied: far from even is a liking for a place."""
        pairs = zip(responses, as_scores(requests, responses, self.rule), strict=True)
        places = [int(np.argmax(row)) for reply, row in pairs if isinstance(reply, str) and isinstance(row, np.ndarray)]
        return {f"share of letter {LETTERS[at]}": places.count(at) / len(places) for at in sorted(set(places))}

    def _orders(self, key: str, count: int) -> list[list[int]]:
        places = list(range(count))
        if self.order == "given":
            return [places]
        if self.order == "circular":
            return [places[turn:] + places[:turn] for turn in places]
        seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())
        return [np.random.default_rng(seed).permutation(count).tolist()]

    def _request(self, key: str, sample: Sample, question: Question, order: Sequence[int]) -> ScoreRequest:
        choices = tuple(question.choices[place] for place in order)
        statements = question.statements or tuple(f"{question.text} {choice}" for choice in question.choices)
        scored = ScoreRequest(
            key=key,
            images=sample.images,
            texts=tuple((statements[place],) for place in order),
            true=(choices.index(question.answer),),
            kind=question.kind,
            sample_key=sample.key,
        )
        if len(sample.images) != 1 and self.form != "words":
            raise DataError(
                f"sample '{sample.key}' has {len(sample.images)} images; without `form: words` it needs one"
            )
        if self.form == "statements":
            return scored
        options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
        prompt = Text(f"{question.text}\n{options}\n{self.ending}", "user")
        words = GenerateRequest(key, Sample(key, (*sample.images, prompt)), max_tokens=32, kind=question.kind)
        return ScoreOrGenerate.of(scored, words, choices, words_only=self.form == "words")


def _circular(plain: MetricCounts) -> MetricCounts:
    """One item a question: right if all of its rotations are."""
    groups: dict[str, list[int]] = defaultdict(list)
    for at, key in enumerate(plain.items.keys):
        groups[key.rpartition("@")[0] or key].append(at)
    members = [np.array(group) for group in groups.values()]
    first, items = [group[0] for group in members], plain.items
    unparsed_I = items.unparsed_I
    together = Items(
        keys=tuple(groups),
        samples=tuple(items.samples[at] for at in first),
        kinds=tuple(items.kinds[at] for at in first),
        tied_I=np.array([items.tied_I[group].any() for group in members]),
        failed_I=np.array([items.failed_I[group].any() for group in members]),
        choices=tuple(" | ".join(items.choices[at] for at in group.tolist()) for group in members),
        unparsed_I=None if unparsed_I is None else np.array([unparsed_I[group].any() for group in members]),
    )
    return replace(
        plain,
        name="circular accuracy",
        items=together,
        credit_I=np.array([plain.credit_I[group].prod() for group in members]),
        chance_I=np.array([plain.chance_I[group].prod() for group in members]),
        lenient=None if plain.lenient is None else _circular(plain.lenient),
    )
