"""Winoground: two images and two captions of the same words; each caption fits one image (Thrush et al. 2022,
arXiv:2204.03162).

The official script asks for > everywhere, so a tie always loses; here ties are broken in every way and averaged, so
that a constant scorer gets exactly chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chiasm.data.sample import Sample
from chiasm.data.sources.winoground import Winoground
from chiasm.errors import DataError
from chiasm.evaluation.examples import RIGHT, WRONG
from chiasm.evaluation.request import Request, Response, ScoreRequest, of_type
from chiasm.evaluation.result import Candidate, Example, TextOrImage
from chiasm.evaluation.task import Items, Measured, MetricCounts, Show, Task

_CHANCE = {"text score": 1 / 4, "image score": 1 / 4, "group score": 1 / 6}  # of the 24 orders of four scores


@dataclass(frozen=True)
class Quadruples(Task):
    """Samples of two images and two texts, the first text being the first image's caption.

    Text score: both images prefer their own caption. Image score: both captions prefer their own image. Group
    score: both. The kind of an item is its `meta["kind"]`, where it has one.
    """

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        return {"data": {"source": "winoground", **Winoground.example(folder)}}

    def construct_requests(self, sample: Sample) -> Iterator[ScoreRequest]:
        if len(sample.images) != 2 or len(sample.texts) != 2:
            raise DataError(
                f"sample '{sample.key}' has {len(sample.images)} images and {len(sample.texts)} texts; two of each "
                "are needed"
            )
        first, second = sample.texts
        kind = str(sample.meta.get("kind", ""))
        texts = (first.text,), (second.text,)
        yield ScoreRequest(sample.key, sample.images, texts, (0,), kind=kind, sample_key=sample.key)

    def measure(self, requests: Sequence[Request], responses: Sequence[Response]) -> Measured:
        scores_I4, failed_I = _scores(responses)
        ordered_I4 = np.sort(scores_I4, axis=1)
        items = Items(
            keys=tuple(request.key for request in requests),
            samples=tuple(request.key for request in requests),
            kinds=tuple(request.kind for request in requests),
            tied_I=(ordered_I4[:, 2] == ordered_I4[:, 3]) & ~failed_I,
            failed_I=failed_I,
            choices=("",) * len(requests),
        )
        asked_I = np.array([float(bool(request.verbs)) for request in requests])
        won = {name: np.where(failed_I, 0.0, credit_I) for name, credit_I in _credits(scores_I4).items()}
        return Measured(
            tuple(MetricCounts(name, items, won[name], _CHANCE[name] * asked_I, by_kind=True) for name in _CHANCE)
        )

    def examples(self, requests: Sequence[Request], responses: Sequence[Response], show: Show) -> Sequence[Example]:
        scores_I4, failed_I = _scores(responses)
        # Above 0 both scores are won.
        margins = (scores_I4[:, [0, 3]].min(axis=1) - scores_I4[:, [1, 2]].max(axis=1)).tolist()
        order = sorted((item for item in range(len(margins)) if not failed_I[item]), key=margins.__getitem__)
        wrong = [item for item in order if margins[item] <= 0][: WRONG // 2]
        right = [item for item in order if margins[item] > 0][-RIGHT // 2 :]
        found, asked = [], dict(of_type(requests, ScoreRequest))
        for item in wrong + right:
            request = asked[item]
            for at, image in enumerate(request.images):
                scores = scores_I4[item, 2 * at : 2 * at + 2].tolist()
                candidates = [Candidate(TextOrImage(text=request.texts[c][0]), scores[c], true=c == at) for c in (0, 1)]
                candidates.sort(key=lambda candidate: -candidate.score)
                found.append(Example(request.key, margins[item] > 0, show(image), tuple(candidates), request.kind))
        return found


def _scores(responses: Sequence[Response]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(I, 4) scores, image before caption: (p0 c0, p0 c1, p1 c0, p1 c1), 0 where there is no answer; and where."""
    scores_I4, failed_I = np.zeros((len(responses), 4)), np.ones(len(responses), np.bool_)
    for at, response in enumerate(responses):
        if isinstance(response, np.ndarray):
            scores_I4[at], failed_I[at] = response.reshape(4), False
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
