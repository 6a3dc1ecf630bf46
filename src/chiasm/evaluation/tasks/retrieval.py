"""Retrieval: find a picture's captions among all captions, and a caption's pictures among all pictures.

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
from chiasm.evaluation.ranking import Ranking, hit_share, stand
from chiasm.evaluation.result import Example, Shown
from chiasm.evaluation.task import Items, Measured, MetricCounts, Request, Response, ScoreRequest, Show, Task, image_key


@dataclass(frozen=True)
class Retrieval(Task):
    """Recall@k both ways. A picture (equal bytes) or caption (equal text) that occurs again is one candidate and query.

    So a caption that several pictures share is right for each of them, and costs none of them a tie; the facts count
    how often that happens. Where scores tie at rank k, an item earns the share of tie-breakings that put a right
    candidate among the first k; chance is the same share with all candidates tied (hypergeometric).
    k: the cuts. captions: all of a sample's captions, or only the first.
    """

    k: tuple[int, ...] = (1, 5, 10)
    captions: Literal["all", "first"] = "all"

    def ask(self, sample: Sample) -> Iterator[ScoreRequest]:
        """The sample's captions as columns by themselves; `questions` puts all samples' columns together."""
        captions = sample.captions if self.captions == "all" else sample.captions[:1]
        if not captions:
            raise DataError(f"sample '{sample.key}' has no captions to find")
        yield ScoreRequest(sample.key, (sample.image,), tuple((caption,) for caption in captions), sample=sample.key)

    def questions(self) -> Sequence[Request]:
        return self._gathered.questions()

    @cached_property
    def _gathered(self) -> _Gathered:
        gathered = _Gathered()
        for question in super().questions():
            gathered.add(question)
        return gathered

    def measure(self, questions: Sequence[Request], answers: Sequence[Response]) -> Measured:
        scores_NC, true_NC = padded(questions, answers)
        asked_N = np.array([isinstance(question, ScoreRequest) for question in questions])
        to_text = stand(scores_NC, true_NC)
        to_image = stand(np.ascontiguousarray(scores_NC.T), np.ascontiguousarray(true_NC.T))
        captions = _caption_items(questions, to_image, true_NC)
        count, columns = int(asked_N.sum()), true_NC.shape[1]
        facts = {
            "image to text median rank": float(np.median(to_text.ranks().clip(max=columns))),
            "text to image median rank": float(np.median(to_image.ranks().clip(max=count))),
            "pictures": count,
            "captions": columns,
            "pictures met again": self._gathered.images_again,
            "captions met again": self._gathered.captions_again,
            "captions shared by several pictures": int((true_NC.sum(axis=0) > 1).sum()),
        }
        metrics = (
            *self._recalls("image to text", items_of(questions, to_text), to_text, true_NC),
            *self._recalls("text to image", captions, to_image, true_NC[asked_N].T),
        )
        return Measured(metrics, facts)

    def _recalls(self, way: str, items: Items, standing: Ranking, true_IC: NDArray[np.bool_]) -> Iterator[MetricCounts]:
        right_I = true_IC.sum(axis=1)
        level_I = np.where(right_I > 0, true_IC.shape[1], 0)  # a sample that cannot be read has no candidates
        for k in self.k:
            chance_I = hit_share(np.zeros_like(level_I), level_I, right_I, k)
            yield MetricCounts(f"{way} R@{k}", items, standing.hits(k), chance_I)

    def examples(self, questions: Sequence[Request], answers: Sequence[Response], show: Show) -> Sequence[Example]:
        scores_NC, true_NC = padded(questions, answers)
        matches = [one if isinstance(one, ScoreRequest) else ScoreRequest(one.key, (), ()) for one in questions]
        texts = next(one.texts for one in matches if one.texts)

        def text(column: int) -> Shown:
            return Shown(text=texts[column][0])

        def picture(row: int) -> Shown:
            return show(matches[row].images[0])

        hits_N, hits_C = stand(scores_NC, true_NC).hits(1), stand(scores_NC.T, true_NC.T).hits(1)
        found = [
            example(matches[row].key, picture(row), scores_NC[row], true_NC[row], text, "image to text")
            for row in picked(hits_N, scores_NC, true_NC, WRONG // 2)
        ] + [
            example(texts[at][0], text(at), scores_NC[:, at], true_NC[:, at], picture, "text to image")
            for at in picked(hits_C, scores_NC.T, true_NC.T, WRONG // 2)
        ]
        return sorted(found, key=lambda one: one.right)


@dataclass
class _Gathered:
    """Every picture and every caption once, and which belong together."""

    pictures: dict[str, ScoreRequest] = field(default_factory=dict)  # by the picture's key
    right: dict[str, dict[int, None]] = field(default_factory=dict)  # the picture's columns, in order
    columns: dict[str, int] = field(default_factory=dict)
    broken: list[Request] = field(default_factory=list)
    images_again: int = 0
    captions_again: int = 0

    def add(self, question: Request) -> None:
        """Takes up the question of one sample."""
        if not isinstance(question, ScoreRequest):
            self.broken.append(question)
            return
        key = image_key(question.images[0])
        self.images_again += key in self.pictures
        self.pictures.setdefault(key, question)
        for (caption,) in question.texts:
            self.captions_again += caption in self.columns
            self.right.setdefault(key, {})[self.columns.setdefault(caption, len(self.columns))] = None

    def questions(self) -> Sequence[Request]:
        """One match a picture, all with the same columns; then the samples that could not be read."""
        texts = tuple((caption,) for caption in self.columns)
        matches = (replace(one, texts=texts, true=tuple(self.right[key])) for key, one in self.pictures.items())
        return [*matches, *self.broken]


def _caption_items(questions: Sequence[Request], standing: Ranking, true_NC: NDArray[np.bool_]) -> Items:
    """One item a caption; it belongs to the sample of the first picture that it is right for."""
    matches = [question for question in questions if isinstance(question, ScoreRequest)]
    return Items(
        keys=tuple(phrasings[0] for phrasings in matches[0].texts),
        samples=tuple(matches[row].sample for row in true_NC.argmax(axis=0).tolist()),
        kinds=("",) * true_NC.shape[1],
        tied_I=standing.tied_I,
        failed_I=standing.failed_I,
        said=tuple(matches[row].key for row in standing.best_I.tolist()),
    )
