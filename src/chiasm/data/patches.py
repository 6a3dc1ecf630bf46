"""Pictures to patches at their own aspect ratio, as NaFlex models see them (SigLIP 2, arXiv:2502.14786, section 2.4).

Shapes: N images, P patches, p their side in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from chiasm.data.batch import Images, PatchImages
from chiasm.data.image import Image
from chiasm.data.transforms import ImageTransform
from chiasm.errors import RecipeError

# The published code searches the scale of a picture to this precision, from a tenth of it to 100.
_PRECISION, _LARGEST_SCALE = 1e-5, 100.0


@dataclass(frozen=True)
class PatchTransform:
    """Image -> its patches, row by row, (P, p * p * 3), as many as `max_patches` at the most.

    A picture is resized so that both its sides are whole patches and its aspect ratio changes as little as that
    allows. Small pictures are made larger. There is no augmentation.
    """

    patch: int = 16
    max_patches: int = 256
    interpolation: Literal["bicubic", "bilinear", "lanczos"] = "bilinear"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    augment: ClassVar[None] = None

    def __post_init__(self) -> None:
        if self.patch < 1 or self.max_patches < 1:
            raise RecipeError(f"patch {self.patch} and max_patches {self.max_patches} must be 1 or more")

    def __call__(self, image: Image) -> tuple[Tensor, tuple[int, int]]:
        """The patches of a picture, and their grid: rows, columns."""
        decoded = image.decode()
        rows, columns = self.grid(*decoded.size)
        size = columns * self.patch, rows * self.patch
        if decoded.size != size:
            decoded = decoded.resize(size, PIL.Image.Resampling[self.interpolation.upper()])
        pixels_CHW = ImageTransform(mean=self.mean, std=self.std).normalised(np.asarray(decoded))
        return patches_of(pixels_CHW, self.patch)

    def batch(self, images: Sequence[Image]) -> Images:
        """Patches of N pictures, filled up to those of the largest, with their grids."""
        pixels, grid_M2 = filled_up([self(image) for image in images], self.patch)
        return PatchImages(pixels, torch.arange(len(images)), grid_M2)

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of the largest grid for a picture of that size.

        Found by halving, as the published code does: where two grids lie within its precision, so must ours.
        """
        low, high = _PRECISION / 10, _LARGEST_SCALE
        while high - low >= _PRECISION:
            middle = (low + high) / 2
            rows, columns = self._scaled(width, height, middle)
            low, high = (middle, high) if rows * columns <= self.max_patches else (low, middle)
        return self._scaled(width, height, low)

    def _scaled(self, width: int, height: int, scale: float) -> tuple[int, int]:
        return max(1, math.ceil(height * scale / self.patch)), max(1, math.ceil(width * scale / self.patch))


def patches_of(pixels_CHW: Tensor, patch: int) -> tuple[Tensor, tuple[int, int]]:
    """The whole patches of pixels, row by row, (P, p * p * 3), and their grid: rows, columns. A rest is left out."""
    _, height, width = pixels_CHW.shape
    rows, columns = height // patch, width // patch
    whole_CHW = pixels_CHW[:, : rows * patch, : columns * patch]
    pieces = whole_CHW.reshape(3, rows, patch, columns, patch).permute(1, 3, 2, 4, 0)
    return pieces.reshape(rows * columns, -1), (rows, columns)


def filled_up(made: Sequence[tuple[Tensor, tuple[int, int]]], patch: int) -> tuple[Tensor, Tensor]:
    """Patches of N pictures, (N, P, p * p * 3), filled up with zeros to those of the largest, and grids, (N, 2)."""
    longest = max([1, *(len(patches) for patches, _ in made)])
    pixels = torch.zeros(len(made), longest, patch**2 * 3)
    for at, (patches, _) in enumerate(made):
        pixels[at, : len(patches)] = patches
    return pixels, torch.tensor([grid for _, grid in made], dtype=torch.long).view(-1, 2)
