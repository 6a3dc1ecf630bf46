"""Matches answered by products of embeddings, vectors by themselves; each picture and text is embedded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from chiasm.data.image import Image
from chiasm.errors import DataError
from chiasm.evaluation.item import checked, group_means
from chiasm.evaluation.response_cache import EmbeddingCache
from chiasm.evaluation.share import Share
from chiasm.evaluation.task import EmbedRequest, Failed, Request, Response, ScoreRequest, image_key
from chiasm.models.model import Embedder

_PICTURES, _TEXTS = 128, 1024  # handed to the model at once; between them, progress is kept


class Embeddings:
    """What a model made of pictures and texts. cache: a folder; None keeps them in memory. others: to read from too."""

    def __init__(
        self, model: Embedder, progress: Progress, cache: Path | None, identity: str, others: Sequence[Path] = ()
    ) -> None:
        self._model, self._progress = model, progress
        self._images, self._texts = (
            EmbeddingCache(cache / name if cache else None, identity, [other / name for other in others])
            for name in ("pictures", "texts")
        )
        self._unreadable: dict[str, str] = {}  # the reason, by the picture's key

    def prepare(self, questions: Sequence[Request], share: Share) -> None:
        """Embeds the pictures and texts of all matches that are not embedded yet and are of this share."""
        pictures: dict[str, Image] = {}
        columns: dict[int, tuple[tuple[str, ...], ...]] = {}  # questions share tuples of texts; look at each once
        for question in questions:
            if isinstance(question, ScoreRequest):
                columns[id(question.texts)] = question.texts
            if isinstance(question, (ScoreRequest, EmbedRequest)):
                for image in question.images:
                    pictures[image_key(image)] = image
        texts = dict.fromkeys(text for several in columns.values() for phrasings in several for text in phrasings)
        known, mine = self._images.places.keys() | self._unreadable.keys(), share.mine(pictures)
        self._embed_images({key: one for key, one in pictures.items() if key in mine and key not in known})
        # Texts of like length go to the model together, so that little is padded.
        mine = share.mine(texts)
        self._embed_texts(sorted((one for one in texts if one in mine and one not in self._texts.places), key=len))

    def answers(self, questions: Sequence[ScoreRequest]) -> list[Response]:
        """The answers, in order."""
        alike = groupby(questions, key=lambda question: id(question.texts))
        return [answer for _, several in alike for answer in self._products(list(several))]

    def vector(self, question: EmbedRequest) -> Response:
        """The embeddings of a question's pictures, (N, D)."""
        keys = [image_key(image) for image in question.images]
        if missing := [key for key in keys if key not in self._images.places]:
            return Failed(self._unreadable[missing[0]])
        return checked(self._images.matrix()[[self._images.places[key] for key in keys]])

    def _embed_images(self, pictures: dict[str, Image]) -> None:
        keys = list(pictures)
        bar = self._progress.add_task("pictures", total=len(keys), visible=bool(keys))
        for at in range(0, len(keys), _PICTURES):
            chunk = keys[at : at + _PICTURES]
            try:
                self._images.add(chunk, _rows(self._model.embed_images([pictures[key] for key in chunk])))
            except DataError:
                for key in chunk:  # one of them is broken; looking for it is worth the time only now
                    try:
                        self._images.add([key], _rows(self._model.embed_images([pictures[key]])))
                    except DataError as error:
                        self._unreadable[key] = str(error)
            self._progress.advance(bar, len(chunk))

    def _embed_texts(self, texts: list[str]) -> None:
        bar = self._progress.add_task("texts", total=len(texts), visible=bool(texts))
        for at in range(0, len(texts), _TEXTS):
            chunk = texts[at : at + _TEXTS]
            self._texts.add(chunk, _rows(self._model.embed_texts(chunk)))
            self._progress.advance(bar, len(chunk))

    def _products(self, questions: list[ScoreRequest]) -> Iterator[Response]:
        """The answers to questions that share their texts.

        Products are taken in float64 and rounded to float32: equal embeddings then tie exactly, in whatever order the
        matrix product sums.
        """
        keys = [[image_key(image) for image in question.images] for question in questions]
        sound = [[key for key in several if key in self._images.places] for several in keys]
        rows = [self._images.places[key] for several in sound for key in several]
        columns_CD = self._columns(questions[0].texts)
        scores_NC = np.empty((len(rows), len(columns_CD)), np.float32)
        for at in range(0, len(rows), _PICTURES):
            scores_NC[at : at + _PICTURES] = self._images.matrix()[rows[at : at + _PICTURES]] @ columns_CD.T
        start = 0
        for all_keys, sound_keys in zip(keys, sound, strict=True):
            scores = scores_NC[start : start + len(sound_keys)]
            start += len(sound_keys)
            missing = [key for key in all_keys if key not in self._images.places]
            yield Failed(self._unreadable[missing[0]]) if missing else checked(scores)

    def _columns(self, texts: tuple[tuple[str, ...], ...]) -> NDArray[np.float64]:
        """(C, D), unit length: the mean embedding of each group of phrasings, scaled to length 1."""
        rows_ND = self._texts.matrix()[[self._texts.places[text] for phrasings in texts for text in phrasings]]
        if len(rows_ND) == len(texts):
            return rows_ND.astype(np.float64)
        means_CD = group_means(rows_ND, texts)
        return means_CD / np.maximum(np.linalg.norm(means_CD, axis=1, keepdims=True), np.finfo(np.float64).tiny)


def _rows(tensor: object) -> NDArray[np.float32]:
    return np.asarray(tensor, dtype=np.float32)
