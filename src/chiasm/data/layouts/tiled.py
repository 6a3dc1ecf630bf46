"""A picture as square tiles, each with its row and column written before it, then the whole of it at one tile's size:
Idefics3 (arXiv:2408.12637, section 3.1), SmolVLM (arXiv:2504.05299).

Unlike in LLaVA-NeXT nothing is padded: the picture is stretched to whole tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import PIL.Image

from chiasm.data.batch import Images, PatchImages
from chiasm.data.image import Image
from chiasm.data.layout import Layout
from chiasm.data.patches import filled_up, patches_of
from chiasm.data.tiles import TileTransform, cut, owned
from chiasm.errors import RecipeError

_LARGEST = 4096  # no side is ever made longer
_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Tiled(Layout):
    """Square tiles in rows and columns. tile, patch: sides in pixels. image_tokens: of a tile.

    longest: the longer side that every picture is scaled to, before it is stretched to whole tiles.
    split: False shows the whole picture alone, at one tile's size.
    token: the image token; around: stands around tiles; whole: stands before the tokens of the whole picture.
    """

    tile: int = 364
    longest: int = 4 * 364
    patch: int = 14
    image_tokens: int = 169
    split: bool = True
    transform: TileTransform = field(default_factory=lambda: TileTransform("lanczos", _HALF, _HALF))
    token: str = "<image>"  # noqa: S105  # a token of text, no secret
    around: str = "<fake_token_around_image>"
    whole: str = "<global-img>"

    def __post_init__(self) -> None:
        if self.image_tokens < 1 or not 1 <= self.patch <= self.tile or self.longest < 1:
            raise RecipeError(
                f"tiles of {self.tile} pixels with {self.image_tokens} image tokens, patches of {self.patch} and a "
                f"longest side of {self.longest} do not make a layout"
            )

    @property
    def image_token(self) -> str:
        return self.token

    @property
    def marks(self) -> tuple[str, ...]:
        most = range(math.ceil(min(self.longest, _LARGEST) / self.tile))
        return (self.around, self.whole, *(_position_token(row, column) for row in most for column in most))

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of tiles for a picture of that size; (0, 0) where it is shown whole alone."""
        wide, high = stretched(*scaled(width, height, self.longest), self.tile)
        alone = not self.split or (wide, high) == (self.tile, self.tile)
        return (0, 0) if alone else (high // self.tile, wide // self.tile)

    def written(self, width: int, height: int) -> str:
        rows, columns = self.grid(width, height)
        features = self.token * self.image_tokens
        lines = [
            "".join(f"{self.around}{_position_token(row, column)}{features}" for column in range(columns)) + "\n"
            for row in range(rows)
        ]
        return "".join([*lines, "\n" if rows else "", self.around, self.whole, features, self.around])

    def images(
        self,
        images: Sequence[Image],
        generators: Sequence[np.random.Generator] | None = None,  # noqa: ARG002  # nothing is drawn
    ) -> Images:
        tiles = [self._tiles(image.decode()) for image in images]
        made = self.transform.pixels([tile for image_tiles in tiles for tile in image_tiles])
        pixels, grid = filled_up([patches_of(tile, self.patch) for tile in made], self.patch)
        row_N, tiles_N = owned(tiles)
        return PatchImages(pixels, row_N, grid, tiles_N)

    def _tiles(self, image: PIL.Image.Image) -> list[PIL.Image.Image]:
        rows, _ = self.grid(*image.size)
        image = self.transform.resized(image, *scaled(*image.size, self.longest))
        if self.split:  # twice, as the published code does
            image = self.transform.resized(image, *stretched(*image.size, self.tile))
        return [*(cut(image, self.tile) if rows else ()), self.transform.resized(image, self.tile, self.tile)]


def scaled(width: int, height: int, longest: int) -> tuple[int, int]:
    """Width and height of a picture whose longer side becomes `longest`, and the other even, but none above 4,096."""
    aspect = width / height
    if width >= height:
        width, height = longest, _even(int(longest / aspect))
    else:
        width, height = _even(int(longest * aspect)), longest
    width, height = max(width, 1), max(height, 1)
    aspect = width / height
    if max(width, height) > _LARGEST:
        wide = width >= height
        width, height = (_LARGEST, int(_LARGEST / aspect)) if wide else (int(_LARGEST * aspect), _LARGEST)
    return max(width, 1), max(height, 1)


def stretched(width: int, height: int, tile: int) -> tuple[int, int]:
    """Width and height in whole tiles: of the longer side, and of the other where it then is."""
    aspect = width / height
    if width >= height:
        width = _up(width, tile)
        return width, _up(int(width / aspect), tile)
    height = _up(height, tile)
    return _up(int(height * aspect), tile), height


def _even(length: int) -> int:
    return length + length % 2


def _up(length: int, tile: int) -> int:
    return math.ceil(length / tile) * tile


def _position_token(row: int, column: int) -> str:
    return f"<row_{row + 1}_col_{column + 1}>"
