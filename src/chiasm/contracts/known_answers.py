"""Right answers, as far as a task's requests tell them, and models that know just these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chiasm.data.image import Image
from chiasm.data.sample import Sample
from chiasm.evaluation.answers import LETTERS
from chiasm.evaluation.choice import Choice
from chiasm.evaluation.request import (
    EmbedRequest,
    GenerateRequest,
    Request,
    Response,
    ScoreOrGenerate,
    ScoreRequest,
    image_key,
    part_key,
)
from chiasm.evaluation.task import Task


def right_answers(requests: Sequence[Request]) -> list[Response] | None:
    """The right response to each request; None where one of them does not tell it.

    Of scores `true` tells it, of words the first reference, of embeddings the kind: each has a direction of its own.
    """
    classes = _classes(requests)
    found = [right_answer(request, classes) for request in requests]
    known = [response for response in found if response is not None]
    return known if len(known) == len(found) else None


def right_answer(request: Request, classes: Sequence[str] = ()) -> Response | None:
    """The right response; None where the request does not tell it. classes: all kinds, where embeddings are asked."""
    if not request.verbs:
        return request.constant()
    if isinstance(request, ScoreRequest):
        return right_scores(request) if request.true and len(request.images) <= 2 else None
    if isinstance(request, EmbedRequest):
        rows = [classes.index(request.kind)] * len(request.images)
        return np.eye(len(classes), dtype=np.float32)[rows] if len(classes) > 1 else None
    if isinstance(request, GenerateRequest) and request.modality == "text":
        return request.references[0] if request.references else None
    return None


def right_scores(request: ScoreRequest) -> NDArray[np.float32]:
    """1 where a text fits: `true` is of the first image, and the others are of the second, if there is one."""
    scores = np.zeros((len(request.images), len(request.texts)), np.float32)
    scores[0, list(request.true)] = 1
    scores[1:] = 0.9 * (1 - scores[0])  # not as sure, so that nothing ties
    return scores


def right_words(task: Task, request: ScoreOrGenerate) -> str:
    """The reply that the task reads as the right choice."""
    true = request.true[0]
    replies = [request.choices[true], LETTERS[true]]
    if isinstance(task, Choice):
        replies = [reply for reply in replies if task.rule.strict(reply, request.choices) == true] or replies
    return replies[0]


class KnownAnswers:
    """Knows the right answers to a task's requests by their images and words, and nothing else: grey is news to it.

    contradicted: two requests want different answers of the same images and words, so not all can be right.
    """

    def __init__(self, task: Task) -> None:
        self.fits: dict[tuple[str, str], bool] = {}
        self.replies: dict[object, str] = {}
        self.kinds: dict[str, str] = {}
        self.classes = _classes(task.requests)
        self.contradicted = False
        for request in task.requests:
            if isinstance(request, ScoreRequest):
                for image, row in zip(request.images, right_scores(request), strict=True):
                    for texts, fits in zip(request.texts, (row > 0).tolist(), strict=True):
                        self._learn(self.fits, (image_key(image), texts[0]), fits)
            if isinstance(request, ScoreOrGenerate):
                self._learn(self.replies, _asked(request.words.sample), right_words(task, request))
            elif isinstance(request, GenerateRequest):
                self._learn(self.replies, _asked(request.sample), request.references[0])
            elif isinstance(request, EmbedRequest):
                for image in request.images:
                    self._learn(self.kinds, image_key(image), request.kind)

    def _learn(self, known: dict[Any, Any], key: object, value: object) -> None:
        self.contradicted |= known.setdefault(key, value) != value


class KnownScores(KnownAnswers):
    """1 for a text that fits, 0 for all else."""

    def score(self, images: Sequence[Image], texts: Sequence[str]) -> Tensor:
        rows = [[float(self.fits.get((image_key(image), text), False)) for text in texts] for image in images]
        return torch.tensor(rows).reshape(len(images), len(texts))


class KnownEmbeddings(KnownAnswers):
    """A direction of its own for each kind of image, and none for others."""

    def embed_images(self, images: Sequence[Image]) -> Tensor:
        rows = torch.zeros(len(images), len(self.classes))
        for row, image in zip(rows, images, strict=True):
            if (kind := self.kinds.get(image_key(image))) is not None:
                row[self.classes.index(kind)] = 1
        return rows

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.zeros(len(texts), len(self.classes))


class KnownReplies(KnownAnswers):
    """The first reference, or the right choice; no words where it does not know the sample."""

    def generate(self, samples: Sequence[Sample], *, max_tokens: int) -> list[Sample]:  # noqa: ARG002  # all are short
        return [sample.answered(self.replies.get(_asked(sample), "")) for sample in samples]


def models_that_know(task: Task) -> list[KnownScores | KnownEmbeddings | KnownReplies]:
    """One for each verb by which all requests can be answered."""
    asked = [set(request.verbs) for request in task.requests if request.verbs]
    verbs = set.intersection(*asked) if asked else set()
    found: list[KnownScores | KnownEmbeddings | KnownReplies] = []
    if "score" in verbs:
        found.append(KnownScores(task))
    elif "embed" in verbs:  # else an inner product of embeddings would only say the same
        found.append(KnownEmbeddings(task))
    if "generate" in verbs:
        found.append(KnownReplies(task))
    return found


def with_one_reference(requests: Sequence[Request]) -> list[Request]:
    """Requests for words that know but one right answer: what agrees with it agrees with all there is."""
    return [
        replace(request, references=request.references[:1]) if isinstance(request, GenerateRequest) else request
        for request in requests
    ]


def _classes(requests: Sequence[Request]) -> list[str]:
    return sorted({request.kind for request in requests if isinstance(request, EmbedRequest)})


def _asked(sample: Sample) -> object:
    return tuple(map(part_key, sample.parts))
