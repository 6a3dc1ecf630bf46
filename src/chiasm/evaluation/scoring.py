"""Score requests put to a model that scores: all texts about one image go to it together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from chiasm.config import suggest
from chiasm.data.image import Image
from chiasm.errors import CapabilityError, DataError
from chiasm.evaluation.instance import Instance
from chiasm.evaluation.phrasings import columns_of, distinct_texts
from chiasm.evaluation.request import Failed, Response, ScoreRequest, image_key
from chiasm.models.caption_scores import CaptionScorer
from chiasm.models.model import Scorer
from chiasm.models.remote import RemoteScorer, Usage

_TEXTS = 1024  # asked about an image at once, unless one request alone has more


@runtime_checkable
class ScoresBy(Protocol):
    """A scorer with several ways to score. scorings: their names, the first being the usual one."""

    scorings: tuple[str, ...]

    def score(self, images: Sequence[Image], texts: Sequence[str], *, by: str) -> Tensor:
        """See `Scorer`."""


def scoring(model: object, by: str) -> str:
    """The name of the score that this model computes, "" where it has but one.

    Raises CapabilityError if it cannot score by that.
    """
    if isinstance(model, ScoresBy):
        if by and by not in model.scorings:
            raise CapabilityError(f"{type(model).__name__} does not score by '{by}'{suggest(by, model.scorings)}")
        return by or model.scorings[0]
    if by:
        raise CapabilityError(f"{type(model).__name__} has no choice of scores; leave out score_by ('{by}')")
    return ""


class Scores:
    """Asks a scorer. by: what `scoring` gave."""

    def __init__(self, model: Scorer, progress: Progress, by: str) -> None:
        self._model, self._progress, self._by = model, progress, by

    def ask(self, instances: Sequence[Instance[ScoreRequest]]) -> None:
        """Gets the scores of all requests, kept as they come."""
        bar = self._progress.add_task("scores", total=len(instances), visible=bool(instances))
        if isinstance(self._model, RemoteScorer):
            requests = [instance.request for instance in instances]
            for at, (response, usage) in self._model.concurrently(_rated(self._model), requests):
                instances[at].keep(response, usage)
                self._progress.update(bar, advance=1, description=f"scores, {self._model.cost}")
            return
        with self._model.unchanged() if isinstance(self._model, CaptionScorer) else nullcontext():
            for several in _about_one_image(instances):
                responses = self._responses([instance.request for instance in several])
                for instance, response in zip(several, responses, strict=True):
                    instance.keep(response)
                self._progress.advance(bar, len(several))

    def _responses(self, requests: Sequence[ScoreRequest]) -> list[Response]:
        """The scores of requests about the same images."""
        columns = distinct_texts(requests)
        try:
            scores_NT = self._score(requests[0].images, list(columns))
        except DataError as error:
            if len(requests) == 1:
                return [Failed(str(error))]
            return [response for request in requests for response in self._responses([request])]
        return [columns_of(request, scores_NT, columns) for request in requests]

    def _score(self, images: Sequence[Image], texts: Sequence[str]) -> NDArray[np.float32]:
        if isinstance(self._model, ScoresBy):
            found = self._model.score(images, texts, by=self._by)
        else:
            found = self._model.score(images, texts)
        scores_NT = np.asarray(found, np.float32)
        if scores_NT.shape != (len(images), len(texts)):
            raise ValueError(
                f"{type(self._model).__name__}.score gave {scores_NT.shape} for {len(images)} images and "
                f"{len(texts)} texts"
            )
        return scores_NT


def _about_one_image(instances: Sequence[Instance[ScoreRequest]]) -> Iterator[list[Instance[ScoreRequest]]]:
    """Requests about the same images, the order kept, together at most _TEXTS different texts; at least one request."""
    groups: dict[tuple[str, ...], list[Instance[ScoreRequest]]] = {}
    for instance in instances:
        groups.setdefault(tuple(image_key(image) for image in instance.request.images), []).append(instance)
    for group in groups.values():
        several: list[Instance[ScoreRequest]] = []
        texts: set[str] = set()
        columns: set[int] = set()  # requests that share their texts share the tuple
        for instance in group:
            own = instance.request.texts
            if id(own) not in columns:
                new = {text for phrasings in own for text in phrasings}
                if several and len(texts | new) > _TEXTS:
                    yield several
                    several, texts, columns = [], set(), set()
                texts |= new
                columns.add(id(own))
            several.append(instance)
        yield several


def _rated(model: RemoteScorer) -> Callable[[ScoreRequest], tuple[Response, Usage]]:
    def rated(request: ScoreRequest) -> tuple[Response, Usage]:
        columns = distinct_texts([request])
        usage: dict[str, object] = {}
        tokens = {"in": 0, "out": 0}
        scores_NT = np.empty((len(request.images), len(columns)), np.float32)
        try:
            for row, image in enumerate(request.images):
                for text, column in columns.items():
                    scores_NT[row, column], latest = model.rate(image, text)
                    tokens = {name: count + latest.get(name, 0) for name, count in tokens.items()}
                    usage = {**latest, **tokens}
        except DataError as error:
            return Failed(str(error)), usage
        return columns_of(request, scores_NT, columns), usage

    return rated
