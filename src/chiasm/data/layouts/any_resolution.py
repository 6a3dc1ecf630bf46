"""A picture as a grid of tiles at its own aspect ratio, after the whole of it at one tile's size: LLaVA-NeXT.

The grid is chosen among a few shapes; the picture is laid into its middle, and features of what lies around it are left
out again. A mark ends each row. As in the code of LLaVA-NeXT ("anyres", "spatial_unpad")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import PIL.Image
import torch

from chiasm.data.batch import Images, PixelImages
from chiasm.data.image import Image
from chiasm.data.layout import Layout
from chiasm.data.tiles import TileTransform, cut, owned, sizes_of
from chiasm.errors import RecipeError

Grids = tuple[tuple[int, int], ...]

# (height, width) in pixels: 2 by 1 tiles of 336, 1 by 2, 2 by 2, 3 by 1, 1 by 3.
GRIDS: Grids = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


@dataclass(frozen=True)
class AnyResolution(Layout):
    """Tiles in the best of `grids`, (height, width). tile, patch: sides in pixels; each patch is an image token."""

    tile: int = 336
    patch: int = 14
    grids: Grids = GRIDS
    transform: TileTransform = field(default_factory=TileTransform)
    token: str = "<image>"  # noqa: S105  # a token of text, no secret

    def __post_init__(self) -> None:
        if not self.grids or any(side < 1 or side % self.tile for grid in self.grids for side in grid):
            raise RecipeError(f"grids must be of whole tiles of {self.tile} pixels, not {self.grids}")

    @property
    def image_token(self) -> str:
        return self.token

    def image_tokens(self, width: int, height: int) -> int:
        """How many image tokens a picture of that size takes: all of it once, then its rows, each with its mark."""
        side = self.tile // self.patch
        rows, columns = window(width, height, *grid_shape(width, height, self.grids, self.tile), side)
        return side**2 + rows * (columns + 1)

    def written(self, width: int, height: int) -> str:
        return self.token * self.image_tokens(width, height)

    def images(
        self,
        images: Sequence[Image],
        generators: Sequence[np.random.Generator] | None = None,  # noqa: ARG002  # nothing is drawn
    ) -> Images:
        tiles = [self._tiles(image.decode()) for image in images]
        pixels = torch.stack(self.transform.pixels([tile for image_tiles in tiles for tile in image_tiles]))
        return PixelImages(pixels, *owned(tiles), sizes_N2=sizes_of(images))

    def _tiles(self, image: PIL.Image.Image) -> list[PIL.Image.Image]:
        height, width = best_grid(*image.size, self.grids)
        scaled = self.transform.resized(image, *fitted(*image.size, width, height))
        page = PIL.Image.new("RGB", (width, height))  # black, as the published code pads before it normalises
        page.paste(scaled, ((width - scaled.width) // 2, (height - scaled.height) // 2))
        return [self.transform.resized(image, self.tile, self.tile), *cut(page, self.tile)]


def best_grid(width: int, height: int, grids: Grids) -> tuple[int, int]:
    """The (height, width) that keeps most of a picture's pixels; of several such, the smallest; then the first."""

    def kept(grid: tuple[int, int]) -> tuple[int, int]:
        scale = min(grid[1] / width, grid[0] / height)
        pixels = min(int(width * scale) * int(height * scale), width * height)
        return pixels, pixels - grid[0] * grid[1]

    return max(grids, key=kept)


def grid_shape(width: int, height: int, grids: Grids, tile: int) -> tuple[int, int]:
    """Rows and columns of tiles for a picture."""
    down, across = best_grid(width, height, grids)
    return down // tile, across // tile


def fitted(width: int, height: int, wide: int, high: int) -> tuple[int, int]:
    """Width and height of a picture scaled to fit into `wide` by `high` pixels."""
    if wide / width < high / height:
        return wide, min(math.ceil(height * (wide / width)), high)
    return min(math.ceil(width * (high / height)), wide), high


def window(width: int, height: int, down: int, across: int, side: int) -> tuple[int, int]:
    """Rows and columns of patches that a picture covers, out of `down` by `across` tiles of `side` by `side` patches.

    As much is left out before as after. Rounded as the published code rounds, which trained models expect.
    """
    rows, columns = down * side, across * side
    if width / height > columns / rows:
        covered = int(round(height * (columns / width), 7))
        return rows - 2 * ((rows - covered) // 2), columns
    covered = int(round(width * (rows / height), 7))
    return rows, columns - 2 * ((columns - covered) // 2)
