"""What the frozen tower of a generative model makes of pictures, computed once and kept on disk, found by content."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from chiasm.data.batch import ImageFeatures, Images
from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.image import Image
from chiasm.data.sample import Sample
from chiasm.data.vectors import VectorFile
from chiasm.errors import DataError, RecipeError
from chiasm.models.features import ROWS, compute, mark
from chiasm.models.generative import VisionLanguageModel
from chiasm.models.model import CachingProcessor
from chiasm.nn.tower import ImageTower


class CachesImageFeatures(VisionLanguageModel):
    """A model that takes each image's features of its tower, (P, D), from the batch where they are there."""

    vision: ImageTower

    @property
    @abstractmethod
    def reading(self) -> str:
        """Which of the tower's features are taken, in words: part of the name under which they are kept."""

    @property
    @abstractmethod
    def features_shape(self) -> tuple[int, int]:
        """(P, D) of one image."""

    @abstractmethod
    def tower_features(self, images: Images) -> Tensor:
        """(N, P, D) of the tower; taken from the batch where they were computed beforehand."""

    def caching_processor(self, folder: Path, frozen: Collection[str]) -> CachingProcessor:
        if "vision" not in frozen:
            return super().caching_processor(folder, frozen)
        return CachedChatProcessor(self, folder)


class CachedChatProcessor(ChatProcessor, CachingProcessor):
    """Makes batches with features in place of pixels, for a tower that is frozen.

    Raises RecipeError where pictures become several tiles, DataError where they are augmented.
    """

    def __init__(self, model: CachesImageFeatures, folder: Path) -> None:
        own = model.processor
        super().__init__(own.backend, own.settings, own.template.source)
        transform = own.transform
        if transform is None:
            raise RecipeError(
                "data.features keeps features of pictures that are all made alike; these are cut in tiles"
            )
        if transform.augment is not None:
            raise DataError(
                "features of augmented pictures cannot be kept: remove augment from the layout's transform, or "
                "data.features"
            )
        self.model, self._own = model, own
        fingerprint = mark(model.vision, f"{transform!r}, {model.reading}")
        self.file = VectorFile(folder / f"images-{fingerprint}" / ROWS, *model.features_shape)

    @property
    def dummy_images(self) -> Images:
        """Features of none: the tower is not called on any process."""
        return ImageFeatures(torch.zeros(1, *self.model.features_shape), torch.zeros(1, dtype=torch.long))

    def fill(self, samples: Iterable[Sample], console: Console) -> None:
        """Computes what is not there yet of the pictures of these samples; can be stopped and repeated."""
        wanted = {image.key: image for sample in samples for image in sample.images if image.key not in self.file}
        self.model.vision.eval()
        compute(wanted, self.file, self._encoded, "features of pictures", console)

    def _encoded(self, images: list[Image]) -> Tensor:
        layout = self._own.layout
        assert layout is not None
        return self.model.tower_features(layout.images(images).to(self.model.device))

    def _images(
        self,
        samples: Sequence[Sample],
        generators: Sequence[np.random.Generator] | None,  # noqa: ARG002  # a frozen tower sees a picture always alike
    ) -> Images | None:
        shown = [(row, image.key) for row, sample in enumerate(samples) for image in sample.images]
        if not shown:
            return None
        rows = torch.tensor([row for row, _ in shown])
        return ImageFeatures(self.file[[key for _, key in shown]], rows)
