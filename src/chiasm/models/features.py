"""What frozen towers make of pictures and texts, computed once and kept on disk, found again by content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from chiasm.data.batch import Batch, Images, Tokens
from chiasm.data.image import Image
from chiasm.data.processor import PairProcessor
from chiasm.data.sample import Sample
from chiasm.errors import CheckpointError, DataError
from chiasm.models.dual_encoder import DualEncoder

_CHUNK = 32
T = TypeVar("T")


class FeatureFile:
    """Vectors by key in one file that only grows: `features.bin` (float32 rows), and `keys.txt`, a key a line.

    Rows are written before their keys, so that a kill at any moment leaves nothing half there: what has no key is
    overwritten. Reading maps the file into memory.
    """

    def __init__(self, folder: Path, width: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.width, self.rows_file, self.keys_file = width, folder / "features.bin", folder / "keys.txt"
        self.rows_file.touch()
        self.keys_file.touch()
        lines = self.keys_file.read_text().splitlines(keepends=True)
        whole = [line.strip() for line in lines if line.endswith("\n")]
        self.places = {key: place for place, key in enumerate(whole)}
        if self.rows_file.stat().st_size < self._bytes(len(whole)) or len(self.places) != len(whole):
            raise CheckpointError(f"the feature cache {folder} is damaged; remove it, and it will be made anew")
        self.keys_file.write_text("".join(f"{key}\n" for key in whole))

    def __contains__(self, key: str) -> bool:
        return key in self.places

    def __getitem__(self, keys: Sequence[str]) -> Tensor:
        """(N, D), copied from the file."""
        rows: NDArray[np.float32] = np.memmap(self.rows_file, np.float32, "r", shape=(len(self.places), self.width))
        return torch.from_numpy(rows[[self.places[key] for key in keys]])

    def append(self, keys: Sequence[str], rows_ND: Tensor) -> None:
        """Adds rows under keys that are new."""
        with self.rows_file.open("r+b") as file:
            file.seek(self._bytes(len(self.places)))
            file.write(rows_ND.float().cpu().numpy().tobytes())
        with self.keys_file.open("a") as file:
            file.writelines(f"{key}\n" for key in keys)
        for key in keys:
            self.places[key] = len(self.places)

    def _bytes(self, rows: int) -> int:
        return rows * self.width * 4


class CachedProcessor(PairProcessor):
    """Makes batches of features instead of pixels and tokens, for the towers of a dual encoder that are frozen.

    A picture is known by its content, a text by itself, a tower by its weights and by what its processor does: change
    any of them, and the features are computed anew. Augmentation has no place here; a recipe that asks for both is
    refused.
    """

    def __init__(self, model: DualEncoder, folder: Path) -> None:
        super().__init__(model.processor.image, model.processor.tokenizer)
        model.eval()
        if self.image.augment is not None:
            raise DataError(
                "features of augmented pictures cannot be kept: remove processor.image.augment or data.features"
            )
        self.model = model
        self.image_file = FeatureFile(folder / f"images-{_mark(model.vision, repr(self.image))}", model.vision.width)
        marks = repr(self.tokenizer.rules) + self.tokenizer.backend.to_str()
        self.text_file = FeatureFile(folder / f"texts-{_mark(model.text, marks)}", model.text.width)

    def fill(self, samples: Iterable[Sample], console: Console) -> None:
        """Computes what is not there yet of the pictures and captions of these samples; can be stopped and repeated."""
        images: dict[str, Image] = {}
        texts: dict[str, str] = {}
        for sample in samples:
            images |= {image.key: image for image in sample.images if image.key not in self.image_file}
            told = (*sample.captions, *(text.text for text in sample.texts))
            texts |= {_text_key(text): text for text in told if _text_key(text) not in self.text_file}
        self.model.eval()
        _compute(images, self.image_file, self._image_features, "features of pictures", console)
        _compute(texts, self.text_file, self._text_features, "features of texts", console)

    def __call__(self, samples: Sequence[Sample], generators: Sequence[np.random.Generator] | None = None) -> Batch:
        del generators  # nothing is drawn: a frozen tower sees a picture always alike
        keys = [sample.image.key for sample in samples]
        images = Images(torch.empty(0), torch.arange(len(samples)), self.features_of_images(keys))
        features = self.features_of_texts([sample.texts[0].text for sample in samples])
        ones = torch.ones(len(samples), 1, dtype=torch.long)
        return Batch(tuple(s.key for s in samples), images, Tokens(ones, ones[:, 0], ones.bool(), features))

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


def _compute(
    wanted: Mapping[str, T],
    file: FeatureFile,
    encode: Callable[[list[T]], Tensor],
    what: str,
    console: Console,
) -> None:
    keys = list(wanted)
    starts = range(0, len(keys), _CHUNK)
    for start in track(starts, description=what, console=console, disable=not keys, transient=True):
        chunk = keys[start : start + _CHUNK]
        with torch.inference_mode():
            file.append(chunk, encode([wanted[key] for key in chunk]))


def _text_key(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _mark(tower: nn.Module, settings: str) -> str:
    """A short hash of a tower's weights and of how its input is made."""
    digest = hashlib.blake2b(settings.encode(), digest_size=8)
    for name, tensor in tower.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
