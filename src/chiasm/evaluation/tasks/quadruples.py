"""Winoground: two pictures and two captions of the same words; each caption fits one picture (Thrush et al. 2022,
arXiv:2204.03162).

The official script asks for > everywhere, so a tie always loses; here ties are broken in every way and averaged, so
that a constant scorer gets exactly chance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from chiasm.data.sample import Sample
from chiasm.errors import DataError
from chiasm.evaluation.examples import RIGHT, WRONG
from chiasm.evaluation.result import Candidate, Example, Shown
from chiasm.evaluation.task import Items, Measured, MetricCounts, Request, Response, ScoreRequest, Show, Task

_CHANCE = {"text score": 1 / 4, "image score": 1 / 4, "group score": 1 / 6}  # of the 24 orders of four scores


@dataclass(frozen=True)
class Quadruples(Task):
    """Samples of two pictures and two texts, the first text being the first picture's caption.

    Text score: both pictures prefer their own caption. Image score: both captions prefer their own picture. Group
    score: both. The kind of an item is its `meta["kind"]`, where it has one.
    """

    def ask(self, sample: Sample) -> Iterator[ScoreRequest]:
        if len(sample.images) != 2 or len(sample.texts) != 2:
            raise DataError(
                f"sample '{sample.key}' has {len(sample.images)} pictures and {len(sample.texts)} texts; two of each "
                "are needed"
            )
        first, second = sample.texts
        kind = str(sample.meta.get("kind", ""))
        yield ScoreRequest(sample.key, sample.images, ((first.text,), (second.text,)), (0,), kind, sample.key)

    def measure(self, questions: Sequence[Request], answers: Sequence[Response]) -> Measured:
        scores_I4, failed_I = _scores(questions, answers)
        ordered_I4 = np.sort(scores_I4, axis=1)
        items = Items(
            keys=tuple(question.key for question in questions),
            samples=tuple(question.key for question in questions),
            kinds=tuple(question.kind if isinstance(question, ScoreRequest) else "" for question in questions),
            tied_I=(ordered_I4[:, 2] == ordered_I4[:, 3]) & ~failed_I,
            failed_I=failed_I,
            said=("",) * len(questions),
        )
        asked_I = np.array([float(isinstance(question, ScoreRequest)) for question in questions])
        won = {name: np.where(failed_I, 0.0, credit_I) for name, credit_I in _credits(scores_I4).items()}
        return Measured(
            tuple(MetricCounts(name, items, won[name], _CHANCE[name] * asked_I, by_kind=True) for name in _CHANCE)
        )

    def examples(self, questions: Sequence[Request], answers: Sequence[Response], show: Show) -> Sequence[Example]:
        scores_I4, failed_I = _scores(questions, answers)
        # Above 0 both scores are won.
        margins = (scores_I4[:, [0, 3]].min(axis=1) - scores_I4[:, [1, 2]].max(axis=1)).tolist()
        order = sorted((item for item in range(len(margins)) if not failed_I[item]), key=margins.__getitem__)
        wrong = [item for item in order if margins[item] <= 0][: WRONG // 2]
        right = [item for item in order if margins[item] > 0][-RIGHT // 2 :]
        found = []
        for item in wrong + right:
            question = questions[item]
            assert isinstance(question, ScoreRequest)
            for at, image in enumerate(question.images):
                scores = scores_I4[item, 2 * at : 2 * at + 2].tolist()
                candidates = [Candidate(Shown(text=question.texts[c][0]), scores[c], true=c == at) for c in (0, 1)]
                candidates.sort(key=lambda one: -one.score)
                found.append(Example(question.key, margins[item] > 0, show(image), tuple(candidates), question.kind))
        return found


def _scores(questions: Sequence[Request], answers: Sequence[Response]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(I, 4) scores, picture before caption: (p0 c0, p0 c1, p1 c0, p1 c1), 0 where there is no answer; and where."""
    scores_I4, failed_I = np.zeros((len(questions), 4)), np.ones(len(questions), np.bool_)
    for at, answer in enumerate(answers):
        if isinstance(answer, np.ndarray):
            scores_I4[at], failed_I[at] = answer.reshape(4), False
    return scores_I4, failed_I


def _credits(scores_I4: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The share of the 24 tie-breakings that win each score."""
    won = {name: np.zeros(len(scores_I4)) for name in _CHANCE}
    rank_I4 = (scores_I4[:, :, None] > scores_I4[:, None, :]).sum(axis=2)  # how many are below: equal for ties
    for order in permutations(range(4)):
        a, b, c, d = (4 * rank_I4 + np.array(order)).T
        text, image = (a > b) & (d > c), (a > c) & (d > b)
        for name, right in (("text score", text), ("image score", image), ("group score", text & image)):
            won[name] += right / 24
    return won
