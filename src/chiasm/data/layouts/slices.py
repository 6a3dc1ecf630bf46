"""A picture as a small view of the whole and up to nine slices, each near the size that the tower was trained with:
MiniCPM-V (Yao et al. 2024, arXiv:2408.01800, section 3.2.1).

Slices keep the picture's aspect ratio as nearly as their grid does, so they differ in shape from picture to picture; a
resampler makes as many image tokens of each, whatever its shape. Version 2.6 numbers the images of a prompt; 2.5 not,
and marks slices as it marks wholes, and all slices of a picture together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from chiasm.data.batch import Images, PatchImages
from chiasm.data.image import Image
from chiasm.data.layout import Layout
from chiasm.data.resizing import Interpolation
from chiasm.data.tiles import TileTransform, owned
from chiasm.errors import RecipeError


@dataclass(frozen=True)
class Slices(Layout):
    """size: side in pixels of the squares that have as many pixels as a slice. patch: side of a patch. most: slices of
    a picture, the whole not counted. image_tokens: of a slice, and of the whole.

    merge: both sides of a slice are whole multiples of so many patches (4 in version 4.6).
    token: the image token. before, behind: around the whole; slice_before, slice_behind: around a slice; grid_before,
        grid_behind: around all slices; id_before, id_behind: around a picture's number in its sample, from 0 on, which
        stands before it where either is given. between: stands after a picture, before what follows it at once.
    written_as: how a chat template writes a picture.
    """

    size: int = 448
    patch: int = 14
    most: int = 9
    image_tokens: int = 64
    merge: int = 1
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    token: str = "<unk>"  # noqa: S105  # a token of text, no secret
    before: str = "<image>"
    behind: str = "</image>"
    slice_before: str = "<slice>"
    slice_behind: str = "</slice>"
    grid_before: str = ""
    grid_behind: str = ""
    id_before: str = ""
    id_behind: str = ""
    between: str = ""
    written_as: str = "(<image>./</image>)"

    def __post_init__(self) -> None:
        if min(self.image_tokens, self.most, self.merge) < 1 or not 1 <= self.unit <= self.size:
            raise RecipeError(
                f"{self.most} slices of about {self.size} pixels with {self.image_tokens} image tokens in {self.merge} "
                f"patches of {self.patch}, do not make a layout"
            )

    @property
    def unit(self) -> int:
        """The number of pixels of which every side is a multiple."""
        return self.patch * self.merge

    @property
    def image_token(self) -> str:
        return self.token

    @property
    def marks(self) -> tuple[str, ...]:
        parts = (self.before, self.behind, self.slice_before, self.slice_behind, self.grid_before, self.grid_behind)
        return tuple(dict.fromkeys(token for token in (*parts, self.id_before, self.id_behind) if token))

    @property
    def placeholder(self) -> str:
        return self.written_as

    def written(self, width: int, height: int) -> str:
        features = self.token * self.image_tokens
        whole = self.before + features + self.behind
        if (grid := slice_grid(width, height, self.size, self.most)) is None:
            return whole
        line = f"{self.slice_before}{features}{self.slice_behind}" * grid[1]
        return whole + self.grid_before + "\n".join([line] * grid[0]) + self.grid_behind

    def numbered(self, written: str, at: int) -> str:
        return f"{self.id_before}{at}{self.id_behind}{written}" if self.id_before or self.id_behind else written

    def beside(self, written: str, following: str) -> str:
        """The text of a picture, with `between` after it where words follow at once: no mark, no end, no blank."""
        return written + self.between if following[:1] not in ("", "<") and not following[0].isspace() else written

    def images(
        self,
        images: Sequence[Image],
        generators: Sequence[np.random.Generator] | None = None,  # noqa: ARG002  # there is no augmentation
    ) -> Images:
        """Patches of the whole and then of the slices, row by row, of each picture; (M, P, patch * patch * 3), filled
        up with zeros at the end. grid_M2: rows and columns of patches; tiles_N counts what a picture has."""
        by_image = [self._pieces(image.decode()) for image in images]
        pieces = [piece for pieces in by_image for piece in pieces]
        grids = torch.tensor([[side // self.patch for side in piece.shape[1:]] for piece in pieces])
        longest = int(grids.prod(1).max())
        patches = [self._patches(piece) for piece in pieces]
        pixels = torch.stack(
            [F.pad(slice_patches, (0, 0, 0, longest - len(slice_patches))) for slice_patches in patches]
        )
        row_N, tiles_N = owned(by_image)
        return PatchImages(pixels, row_N, grids, tiles_N)

    def _pieces(self, image: PIL.Image.Image) -> list[Tensor]:
        transform = TileTransform(self.interpolation, self.mean, self.std)
        grid = slice_grid(*image.size, self.size, self.most)
        whole = transform.at(image, *fitted(*image.size, self.size, self.unit))
        if grid is None:
            return [whole]
        rows, columns = grid
        width, height = fitted_slices(*image.size, grid, self.size, self.unit)
        cut = transform.at(image, width * columns, height * rows).view(3, rows, height, columns, width)
        return [whole, *cut.permute(1, 3, 0, 2, 4).flatten(0, 1)]

    def _patches(self, pixels_CHW: Tensor) -> Tensor:
        """Patches of a picture, row by row; within each the pixels row by row, channels last, as patch towers want."""
        channels, height, width = pixels_CHW.shape
        cut = pixels_CHW.view(channels, height // self.patch, self.patch, width // self.patch, self.patch)
        return cut.permute(1, 3, 2, 4, 0).flatten(0, 1).flatten(1)


def slice_grid(width: int, height: int, size: int, most: int) -> tuple[int, int] | None:
    """(rows, columns) of the slices of a picture; None for one that is no larger than a slice.

    As many slices as hold the picture's pixels, or one fewer or more, but no more than `most`, in the grid whose shape
    is nearest to the picture's, measured in logarithms: 1344x1344 pixels make 3x3 slices of 448x448.
    """
    ideal = min(math.ceil(width * height / size**2), most)
    if ideal <= 1:
        return None
    grids = [
        (count // columns, columns)
        for count in (ideal - 1, ideal, ideal + 1)
        if 1 < count <= most
        for columns in range(1, count + 1)
        if count % columns == 0
    ]
    shape = math.log(width / height)
    return min(grids, key=lambda grid: abs(shape - math.log(grid[1] / grid[0])))


def fitted(width: float, height: float, size: int, unit: int) -> tuple[int, int]:
    """(width, height) in whole units, of about size² pixels, nearest to a picture's aspect ratio."""
    aspect = width / height
    height = int(size / math.sqrt(aspect))
    return _whole(int(height * aspect), unit), _whole(height, unit)


def fitted_slices(width: int, height: int, grid: tuple[int, int], size: int, unit: int) -> tuple[int, int]:
    """(width, height) of each slice of a picture in a grid of (rows, columns)."""
    rows, columns = grid
    return fitted(_whole(width, columns) / columns, _whole(height, rows) / rows, size, unit)


def _whole(length: float, unit: int) -> int:
    return max(round(length / unit) * unit, unit)
