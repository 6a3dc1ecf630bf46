"""An embedding model that judges replies (CLIPScore); it embeds each image and each text once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chiasm.data.image import Image
from chiasm.errors import CapabilityError, DataError
from chiasm.evaluation.protocol import fingerprint, processor_hash
from chiasm.evaluation.request import image_key
from chiasm.models.model import Embedder, Loader

_IMAGES, _TEXTS = 64, 512  # given to the model at once


class Judge:
    """The model in a folder, opened by `load` when it is first needed."""

    def __init__(self, folder: Path, load: Loader) -> None:
        self.folder, self._load = folder, load
        self._images: dict[str, NDArray[np.float64]] = {}
        self._texts: dict[str, NDArray[np.float64]] = {}

    def check(self) -> None:
        """Raises CheckpointError where the folder holds no model, CapabilityError where the model does not embed."""
        assert self._model is not None

    @cached_property
    def _model(self) -> Embedder:
        model = self._load(self.folder).eval()
        if not isinstance(model, Embedder):
            raise CapabilityError(
                f"the judge in {self.folder} is a {type(model).__name__}, which does not embed; name another model"
            )
        return model

    @cached_property
    def fingerprint(self) -> str:
        """A hash of its weights and its processor."""
        return f"{fingerprint(self._model)}-{processor_hash(self._model)}"

    def images(self, images: Sequence[Image]) -> NDArray[np.float64]:
        """(N, D) embeddings; zeros for an image that cannot be decoded."""
        keys = [image_key(image) for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in self._images}
        for at in range(0, len(new), _IMAGES):
            chunk = list(new)[at : at + _IMAGES]
            self._images |= zip(chunk, self._embedded([new[key] for key in chunk]), strict=True)
        return np.stack([self._images[key] for key in keys])

    def texts(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(N, D) embeddings."""
        new = sorted({text for text in texts if text not in self._texts}, key=lambda text: (len(text), text))
        for at in range(0, len(new), _TEXTS):
            chunk = new[at : at + _TEXTS]
            self._texts |= zip(chunk, np.asarray(self._model.embed_texts(chunk), np.float64), strict=True)
        return np.stack([self._texts[text] for text in texts])

    def _embedded(self, images: Sequence[Image]) -> NDArray[np.float64]:
        try:
            return np.asarray(self._model.embed_images(images), np.float64)
        except DataError:
            if len(images) > 1:
                return np.concatenate([self._embedded([image]) for image in images])
            width = np.asarray(self._model.embed_texts([""])).shape[1]
            return np.zeros((1, width))
