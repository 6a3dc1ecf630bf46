"""What frozen towers make of pictures and texts, computed once and kept on disk, found again by content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from chiasm.data.batch import Batch, ImageFeatures, Images, Tokens
from chiasm.data.image import Image
from chiasm.data.processor import PairProcessor
from chiasm.data.sample import Sample
from chiasm.data.vectors import VectorFile
from chiasm.errors import DataError
from chiasm.models.model import CachingProcessor

if TYPE_CHECKING:
    from chiasm.models.dual_encoder import DualEncoder

_CHUNK = 32
ROWS = "features.npy"
T = TypeVar("T")


class CachedProcessor(PairProcessor, CachingProcessor):
    """Makes batches of features instead of pixels and tokens, for the towers of a dual encoder that are frozen.

    A picture is known by its content, a text by itself, a tower by its weights and by what its processor does: change
    any of them, and the features are computed anew. images, texts: of which towers; the other one is given pixels or
    tokens as ever. Features of pictures leave no place for augmentation; a recipe that asks for both is refused.
    """

    def __init__(self, model: DualEncoder, folder: Path, *, images: bool = True, texts: bool = True) -> None:
        super().__init__(model.processor.image, model.processor.tokenizer)
        model.eval()
        self.of_images, self.of_texts = images, texts
        if images and self.image.augment is not None:
            raise DataError(
                "features of augmented pictures cannot be kept: remove processor.image.augment or data.features"
            )
        self.model = model
        images_mark = mark(model.vision, repr(self.image))
        self.image_file = VectorFile(folder / f"images-{images_mark}" / ROWS, model.vision.width)
        marks = repr(self.tokenizer.rules) + self.tokenizer.backend.to_str()
        self.text_file = VectorFile(folder / f"texts-{mark(model.text, marks)}" / ROWS, model.text.width)

    def fill(self, samples: Iterable[Sample], console: Console) -> None:
        """Computes what is not there yet of the pictures and captions of these samples; can be stopped and repeated."""
        images: dict[str, Image] = {}
        texts: dict[str, str] = {}
        for sample in samples:
            if self.of_images:
                images |= {image.key: image for image in sample.images if image.key not in self.image_file}
            captions = (*sample.captions, *(text.text for text in sample.texts)) if self.of_texts else ()
            texts |= {_text_key(text): text for text in captions if _text_key(text) not in self.text_file}
        self.model.eval()
        compute(images, self.image_file, self._image_features, "features of pictures", console)
        compute(texts, self.text_file, self._text_features, "features of texts", console)

    def __call__(self, samples: Sequence[Sample], generators: Sequence[np.random.Generator] | None = None) -> Batch:
        pictures, texts = [sample.image for sample in samples], [sample.texts[0].text for sample in samples]
        return Batch(
            keys=tuple(sample.key for sample in samples),
            images=self._known_images(pictures) if self.of_images else self.images(pictures, generators),
            texts=self._known_texts(texts) if self.of_texts else self.texts(texts),
        )

    def _known_images(self, pictures: Sequence[Image]) -> Images:
        """Nothing is drawn: a frozen tower sees a picture always alike."""
        features = self.features_of_images([picture.key for picture in pictures])
        return ImageFeatures(features, torch.arange(len(pictures)))

    def _known_texts(self, texts: Sequence[str]) -> Tokens:
        ones = torch.ones(len(texts), 1, dtype=torch.long)
        return Tokens(ones, ones[:, 0], ones.bool(), self.features_of_texts(texts))

    def features_of_images(self, keys: Sequence[str]) -> Tensor:
        """(N, D), by the pictures' keys. Raises KeyError for a picture that was not computed."""
        return self.image_file[keys]

    def features_of_texts(self, texts: Sequence[str]) -> Tensor:
        """(N, D). Raises KeyError for a text that was not computed."""
        return self.text_file[[_text_key(text) for text in texts]]

    def _image_features(self, images: list[Image]) -> Tensor:
        return self.model.vision(self.images(images).to(self.model.device))

    def _text_features(self, texts: list[str]) -> Tensor:
        return self.model.text(self.texts(texts).to(self.model.device))


def compute(
    wanted: Mapping[str, T],
    file: VectorFile,
    encode: Callable[[list[T]], Tensor],
    what: str,
    console: Console,
) -> None:
    """Encodes what is wanted, chunk by chunk, and puts it into the file under its keys."""
    keys = list(wanted)
    starts = range(0, len(keys), _CHUNK)
    for start in track(starts, description=what, console=console, disable=not keys, transient=True):
        chunk = keys[start : start + _CHUNK]
        with torch.inference_mode():
            file.append(chunk, encode([wanted[key] for key in chunk]))


def _text_key(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def mark(tower: nn.Module, settings: str) -> str:
    """A short hash of a tower's weights and of how its input is made."""
    digest = hashlib.blake2b(settings.encode(), digest_size=8)
    for name, tensor in tower.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
