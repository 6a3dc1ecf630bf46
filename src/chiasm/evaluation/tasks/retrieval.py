"""Retrieval: find an image's captions among all captions, and a caption's images among all images.

Recall@k as in Karpathy & Fei-Fei 2015 (arXiv:1412.2306): right is an item that has any of its true ones among the
first k."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from chiasm.data.sample import Sample
from chiasm.errors import DataError
from chiasm.evaluation.choice import items_of, padded
from chiasm.evaluation.examples import WRONG, example, picked
from chiasm.evaluation.ranking import Ranking, hit_share, rank
from chiasm.evaluation.request import Request, Response, ScoreRequest, image_key, of_type
from chiasm.evaluation.result import Example, TextOrImage
from chiasm.evaluation.task import Items, Measured, MetricCounts, Show, Task


@dataclass(frozen=True)
class Retrieval(Task):
    """Recall@k in both directions. An image (equal bytes) or caption (equal text) that occurs again is one candidate
    and one query.

    So a caption that several images share is right for each of them, and costs none of them a tie; the facts count
    how often that happens. Where scores tie at rank k, an item earns the share of tie-breakings that put a right
    candidate among the first k; chance is the same share with all candidates tied (hypergeometric).
    k: the cuts. captions: all of a sample's captions, or only the first.
    """

    k: tuple[int, ...] = (1, 5, 10)
    captions: Literal["all", "first"] = "all"

    def construct_requests(self, sample: Sample) -> Iterator[ScoreRequest]:
        """The sample's captions as columns by themselves; `build_all_requests` puts all samples' columns together."""
        captions = sample.captions if self.captions == "all" else sample.captions[:1]
        if not captions:
            raise DataError(f"sample '{sample.key}' has no captions to find")
        yield ScoreRequest(
            sample.key, (sample.image,), tuple((caption,) for caption in captions), sample_key=sample.key
        )

    def build_all_requests(self) -> Sequence[Request]:
        return self._candidates.requests()

    @cached_property
    def _candidates(self) -> _Candidates:
        candidates, requests = _Candidates(), super().build_all_requests()
        asked = dict(of_type(requests, ScoreRequest))
        candidates.broken = [request for at, request in enumerate(requests) if at not in asked]
        for request in asked.values():
            candidates.add(request)
        return candidates

    def measure(self, requests: Sequence[Request], responses: Sequence[Response]) -> Measured:
        scores_NC, true_NC = padded(requests, responses)
        asked_N = np.array([bool(request.verbs) for request in requests])
        to_text = rank(scores_NC, true_NC)
        to_image = rank(np.ascontiguousarray(scores_NC.T), np.ascontiguousarray(true_NC.T))
        captions = _caption_items(requests, to_image, true_NC)
        count, columns = int(asked_N.sum()), true_NC.shape[1]
        facts = {
            "image to text median rank": float(np.median(to_text.ranks().clip(max=columns))),
            "text to image median rank": float(np.median(to_image.ranks().clip(max=count))),
            "pictures": count,
            "captions": columns,
            "pictures met again": self._candidates.images_again,
            "captions met again": self._candidates.captions_again,
            "captions shared by several pictures": int((true_NC.sum(axis=0) > 1).sum()),
        }
        metrics = (
            *self._recalls("image to text", items_of(requests, to_text), to_text, true_NC),
            *self._recalls("text to image", captions, to_image, true_NC[asked_N].T),
        )
        return Measured(metrics, facts)

    def _recalls(
        self, direction: str, items: Items, ranking: Ranking, true_IC: NDArray[np.bool_]
    ) -> Iterator[MetricCounts]:
        right_I = true_IC.sum(axis=1)
        candidates_I = np.where(right_I > 0, true_IC.shape[1], 0)  # a sample that cannot be read has none
        for k in self.k:
            chance_I = hit_share(np.zeros_like(candidates_I), candidates_I, right_I, k)
            yield MetricCounts(f"{direction} R@{k}", items, ranking.hits(k), chance_I)

    def examples(self, requests: Sequence[Request], responses: Sequence[Response], show: Show) -> Sequence[Example]:
        scores_NC, true_NC = padded(requests, responses)
        asked = dict(of_type(requests, ScoreRequest))
        texts = next(iter(asked.values())).texts

        def text(column: int) -> TextOrImage:
            return TextOrImage(text=texts[column][0])

        def image(row: int) -> TextOrImage:
            return show(asked[row].images[0])

        hits_N, hits_C = rank(scores_NC, true_NC).hits(1), rank(scores_NC.T, true_NC.T).hits(1)
        found = [
            example(asked[row].key, image(row), scores_NC[row], true_NC[row], text, "image to text")
            for row in picked(hits_N, scores_NC, true_NC, WRONG // 2)
        ] + [
            example(texts[at][0], text(at), scores_NC[:, at], true_NC[:, at], image, "text to image")
            for at in picked(hits_C, scores_NC.T, true_NC.T, WRONG // 2)
        ]
        return sorted(found, key=lambda shown: shown.right)


@dataclass
class _Candidates:
    """Every image and every caption once, and which belong together."""

    requests_by_image: dict[str, ScoreRequest] = field(default_factory=dict)  # by the image's key
    right: dict[str, dict[int, None]] = field(default_factory=dict)  # the image's columns, in order
    columns: dict[str, int] = field(default_factory=dict)
    broken: list[Request] = field(default_factory=list)
    images_again: int = 0
    captions_again: int = 0

    def add(self, request: ScoreRequest) -> None:
        """Takes up the request of one sample."""
        key = image_key(request.images[0])
        self.images_again += key in self.requests_by_image
        self.requests_by_image.setdefault(key, request)
        for (caption,) in request.texts:
            self.captions_again += caption in self.columns
            self.right.setdefault(key, {})[self.columns.setdefault(caption, len(self.columns))] = None

    def requests(self) -> Sequence[Request]:
        """One request an image, all with the same columns; then the samples that could not be read."""
        texts, by_image = tuple((caption,) for caption in self.columns), self.requests_by_image
        asked = (replace(request, texts=texts, true=tuple(self.right[key])) for key, request in by_image.items())
        return [*asked, *self.broken]


def _caption_items(requests: Sequence[Request], ranking: Ranking, true_NC: NDArray[np.bool_]) -> Items:
    """One item a caption; it belongs to the sample of the first image that it is right for."""
    texts = of_type(requests, ScoreRequest)[0][1].texts
    return Items(
        keys=tuple(phrasings[0] for phrasings in texts),
        samples=tuple(requests[row].cluster for row in true_NC.argmax(axis=0).tolist()),
        kinds=("",) * true_NC.shape[1],
        tied_I=ranking.tied_I,
        failed_I=ranking.failed_I,
        choices=tuple(requests[row].key for row in ranking.best_I.tolist()),
    )
