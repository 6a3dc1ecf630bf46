"""Score and embed requests answered from embeddings; each image and each text is embedded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from chiasm.data.image import Image
from chiasm.errors import DataError
from chiasm.evaluation.phrasings import checked, group_means
from chiasm.evaluation.request import EmbedRequest, Failed, Response, ScoreRequest, image_key
from chiasm.evaluation.response_cache import EmbeddingCache
from chiasm.evaluation.share import Share
from chiasm.models.model import Embedder

_IMAGES, _TEXTS = 128, 1024  # handed to the model at once; between them, progress is kept


class Embeddings:
    """Embeddings of images and texts. cache: a folder; None keeps them in memory. others: to read from too."""

    def __init__(
        self, model: Embedder, progress: Progress, cache: Path | None, identity: str, others: Sequence[Path] = ()
    ) -> None:
        self._model, self._progress = model, progress
        self._images, self._texts = (
            EmbeddingCache(cache / name if cache else None, identity, [other / name for other in others])
            for name in ("images", "texts")
        )
        self._unreadable: dict[str, str] = {}  # the reason, by the image's key

    def prepare(self, scored: Sequence[ScoreRequest], embedded: Sequence[EmbedRequest], share: Share) -> None:
        """Embeds the images and texts of requests that are not embedded yet and are of this share."""
        columns = {id(request.texts): request.texts for request in scored}  # requests share tuples of texts
        images = {image_key(image): image for request in (*scored, *embedded) for image in request.all_images}
        texts = dict.fromkeys(text for several in columns.values() for phrasings in several for text in phrasings)
        known, mine = self._images.places.keys() | self._unreadable.keys(), share.mine(images)
        self._embed_images({key: image for key, image in images.items() if key in mine and key not in known})
        # Texts of like length go to the model together, so that little is padded.
        mine = share.mine(texts)
        self._embed_texts(sorted((text for text in texts if text in mine and text not in self._texts.places), key=len))

    def products(self, requests: Sequence[ScoreRequest]) -> list[Response]:
        """The scores of the requests, in order: products of embeddings."""
        alike = groupby(requests, key=lambda request: id(request.texts))
        return [response for _, several in alike for response in self._products(list(several))]

    def embedded(self, request: EmbedRequest) -> Response:
        """The embeddings of a request's images, (N, D)."""
        keys = [image_key(image) for image in request.images]
        if missing := [key for key in keys if key not in self._images.places]:
            return Failed(self._unreadable[missing[0]])
        return checked(self._images.matrix()[[self._images.places[key] for key in keys]])

    def _embed_images(self, images: dict[str, Image]) -> None:
        keys = list(images)
        bar = self._progress.add_task("images", total=len(keys), visible=bool(keys))
        for at in range(0, len(keys), _IMAGES):
            chunk = keys[at : at + _IMAGES]
            try:
                self._images.add(chunk, _rows(self._model.embed_images([images[key] for key in chunk])))
            except DataError:
                for key in chunk:  # one of them is broken; looking for it is worth the time only now
                    try:
                        self._images.add([key], _rows(self._model.embed_images([images[key]])))
                    except DataError as error:
                        self._unreadable[key] = str(error)
            self._progress.advance(bar, len(chunk))

    def _embed_texts(self, texts: list[str]) -> None:
        bar = self._progress.add_task("texts", total=len(texts), visible=bool(texts))
        for at in range(0, len(texts), _TEXTS):
            chunk = texts[at : at + _TEXTS]
            self._texts.add(chunk, _rows(self._model.embed_texts(chunk)))
            self._progress.advance(bar, len(chunk))

    def _products(self, requests: list[ScoreRequest]) -> Iterator[Response]:
        """The scores of requests that share their texts.

        Products are taken in float64 and rounded to float32: equal embeddings then tie exactly, in whatever order the
        matrix product sums.
        """
        keys = [[image_key(image) for image in request.images] for request in requests]
        sound = [[key for key in several if key in self._images.places] for several in keys]
        rows = [self._images.places[key] for several in sound for key in several]
        columns_CD = self._columns(requests[0].texts)
        scores_NC = np.empty((len(rows), len(columns_CD)), np.float32)
        for at in range(0, len(rows), _IMAGES):
            scores_NC[at : at + _IMAGES] = self._images.matrix()[rows[at : at + _IMAGES]] @ columns_CD.T
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
