"""What layouts that cut pictures into tiles have in common: how a part of a picture is resized, and becomes numbers."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from chiasm.data.image import Image
from chiasm.data.resizing import Interpolation
from chiasm.data.transforms import OPENAI_MEAN, OPENAI_STD, ImageTransform


@dataclass(frozen=True)
class TileTransform:
    """Resizing and normalisation. There is no augmentation: image tokens follow from the size of a picture as it is."""

    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD

    def resized(self, image: PIL.Image.Image, width: int, height: int) -> PIL.Image.Image:
        """The picture at that size; the aspect ratio may change."""
        if image.size == (width, height):
            return image
        return image.resize((width, height), PIL.Image.Resampling[self.interpolation.upper()])

    def pixels(self, images: Sequence[PIL.Image.Image]) -> list[Tensor]:
        """Each picture as normalised pixels, (3, H, W)."""
        transform = ImageTransform(mean=self.mean, std=self.std)
        return [transform.normalised(np.asarray(image)) for image in images]

    def at(self, image: PIL.Image.Image, width: int, height: int) -> Tensor:
        """The picture at that size as normalised pixels, (3, H, W)."""
        return self.pixels([self.resized(image, width, height)])[0]


def cut(image: PIL.Image.Image, tile: int) -> list[PIL.Image.Image]:
    """The tiles of a picture whose sides are whole tiles, row by row."""
    width, height = image.size
    return [image.crop((x, y, x + tile, y + tile)) for y in range(0, height, tile) for x in range(0, width, tile)]


def sizes_of(images: Sequence[Image]) -> Tensor:
    """The sizes of N images, (N, 2): height and width in pixels."""
    return torch.tensor([image.size[::-1] for image in images], dtype=torch.long).view(-1, 2)


def owned(tiles: Sequence[Sized]) -> tuple[Tensor, Tensor]:
    """The numbers of N pictures, (N,), and how many tiles each has, (N,)."""
    return torch.arange(len(tiles)), torch.tensor([len(owned_tiles) for owned_tiles in tiles], dtype=torch.long)
