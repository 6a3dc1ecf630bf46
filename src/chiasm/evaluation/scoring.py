"""Matches answered by a model that scores: all texts asked about one picture go to it together."""

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
from chiasm.evaluation.item import Item, checked, group_means
from chiasm.evaluation.task import Failed, Response, ScoreRequest, image_key
from chiasm.models.caption_scores import CaptionScorer
from chiasm.models.model import Scorer
from chiasm.weights.endpoint import ScoringEndpoint, Told

_TEXTS = 1024  # asked about a picture at once, unless one question alone has more


@runtime_checkable
class ScoresBy(Protocol):
    """A scorer with several ways to score. scorings: their names, the first being the usual one."""

    scorings: tuple[str, ...]

    def score(self, images: Sequence[Image], texts: Sequence[str], *, by: str) -> Tensor:
        """See `Scorer`."""


def scoring(model: object, by: str) -> str:
    """By what this model scores; "" where it knows but one way. Raises CapabilityError if it cannot score by that."""
    if isinstance(model, ScoresBy):
        if by and by not in model.scorings:
            raise CapabilityError(f"{type(model).__name__} does not score by '{by}'{suggest(by, model.scorings)}")
        return by or model.scorings[0]
    if by:
        raise CapabilityError(f"{type(model).__name__} has no choice of scores; leave out score_by ('{by}')")
    return ""


class Scores:
    """Asks a scorer, in the way that `scoring` told."""

    def __init__(self, model: Scorer, progress: Progress, by: str) -> None:
        self._model, self._progress, self._by = model, progress, by

    def ask(self, items: Sequence[Item]) -> None:
        """Answers of matches, kept as they come."""
        bar = self._progress.add_task("scores", total=len(items), visible=bool(items))
        if isinstance(self._model, ScoringEndpoint):
            asked = [(item, item.question) for item in items if isinstance(item.question, ScoreRequest)]
            for at, (answer, told) in self._model.concurrently(_rated(self._model), [one for _, one in asked]):
                asked[at][0].keep(answer, told)
                self._progress.update(bar, advance=1, description=f"scores, {self._model.cost}")
            return
        with self._model.unchanged() if isinstance(self._model, CaptionScorer) else nullcontext():
            for several in _about_one_image(items):
                for item, answer in zip(several, self._answers(several), strict=True):
                    item.keep(answer)
                self._progress.advance(bar, len(several))

    def _answers(self, items: Sequence[Item]) -> list[Response]:
        """The answers to questions about the same pictures."""
        questions = [item.question for item in items if isinstance(item.question, ScoreRequest)]
        places: dict[str, int] = {}
        for question in questions:
            for phrasings in question.texts:
                for text in phrasings:
                    places.setdefault(text, len(places))
        try:
            scores = self._score(questions[0].images, list(places))
        except DataError as error:
            if len(items) == 1:
                return [Failed(str(error))]
            return [answer for item in items for answer in self._answers([item])]
        return [_picked(question, scores, places) for question in questions]

    def _score(self, images: Sequence[Image], texts: Sequence[str]) -> NDArray[np.float32]:
        if isinstance(self._model, ScoresBy):
            found = self._model.score(images, texts, by=self._by)
        else:
            found = self._model.score(images, texts)
        scores_NT = np.asarray(found, np.float32)
        if scores_NT.shape != (len(images), len(texts)):
            raise ValueError(
                f"{type(self._model).__name__}.score gave {scores_NT.shape} for {len(images)} pictures and "
                f"{len(texts)} texts"
            )
        return scores_NT


def _about_one_image(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Items about the same pictures, the order kept, together at most _TEXTS different texts; at least one item."""
    groups: dict[tuple[str, ...], list[Item]] = {}
    for item in items:
        assert isinstance(item.question, ScoreRequest)
        groups.setdefault(tuple(image_key(image) for image in item.question.images), []).append(item)
    for group in groups.values():
        several: list[Item] = []
        texts: set[str] = set()
        columns: set[int] = set()  # questions that share their texts share the tuple
        for item in group:
            assert isinstance(item.question, ScoreRequest)
            if id(item.question.texts) not in columns:
                new = {text for phrasings in item.question.texts for text in phrasings}
                if several and len(texts | new) > _TEXTS:
                    yield several
                    several, texts, columns = [], set(), set()
                texts |= new
                columns.add(id(item.question.texts))
            several.append(item)
        yield several


def _picked(question: ScoreRequest, scores_NT: NDArray[np.float32], places: dict[str, int]) -> Response:
    """A question's own columns, the mean over the phrasings of each."""
    own = scores_NT[:, [places[text] for phrasings in question.texts for text in phrasings]]
    if own.shape[1] != len(question.texts):
        own = group_means(own.T, question.texts).T.astype(np.float32)
    return checked(own)


def _rated(model: ScoringEndpoint) -> Callable[[ScoreRequest], tuple[Response, Told]]:
    def rated(question: ScoreRequest) -> tuple[Response, Told]:
        places: dict[str, int] = {}
        for phrasings in question.texts:
            for text in phrasings:
                places.setdefault(text, len(places))
        told: dict[str, object] = {}
        tokens = {"in": 0, "out": 0}
        scores_NT = np.empty((len(question.images), len(places)), np.float32)
        try:
            for row, image in enumerate(question.images):
                for text, column in places.items():
                    scores_NT[row, column], one = model.rate(image, text)
                    tokens = {name: count + one.get(name, 0) for name, count in tokens.items()}
                    told = {**one, **tokens}
        except DataError as error:
            return Failed(str(error)), told
        return _picked(question, scores_NT, places), told

    return rated
