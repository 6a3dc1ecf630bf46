"""A picture as up to so many square tiles, and a small view of the whole: InternVL 1.5 (Chen et al. 2024,
arXiv:2404.16821, section 3.2).

Of all grids with that many tiles the one is taken whose shape is nearest to the picture's; the picture is squashed
into it and cut. Of a video each frame is one tile, with its number written before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from chiasm.data.batch import Images, PixelImages
from chiasm.data.frame_sampling import FrameSampling
from chiasm.data.image import Image
from chiasm.data.layout import VideoLayout
from chiasm.data.resizing import Interpolation
from chiasm.data.sample import Video
from chiasm.data.tiles import TileTransform, owned
from chiasm.errors import RecipeError


@dataclass(frozen=True)
class AspectTiles(VideoLayout):
    """Square tiles in the grid nearest to a picture's aspect ratio. size: side of a tile in pixels.

    image_tokens: of a tile. min_tiles, max_tiles: of a picture; training took up to 12, and 40 may be given later.
    thumbnail: whether the whole picture follows as one more tile, where it has more than one.
    token: the image token. before, behind: around a picture or frame. video: how templates write a video.
    sampling: which frames of a video are read; by default 8, each from the middle of an eighth of it.
    """

    size: int = 448
    image_tokens: int = 256
    min_tiles: int = 1
    max_tiles: int = 12
    thumbnail: bool = True
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of ImageNet
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    token: str = "<IMG_CONTEXT>"  # noqa: S105  # a token of text, no secret
    before: str = "<img>"
    behind: str = "</img>"
    video: str = "<video>"
    sampling: FrameSampling = field(default_factory=lambda: FrameSampling(frames=8, centred=True))

    def __post_init__(self) -> None:
        if self.size < 1 or self.image_tokens < 1:
            raise RecipeError(
                f"a tile of {self.size} pixels with {self.image_tokens} image tokens is none; both must be 1 or more"
            )
        if not 1 <= self.min_tiles <= self.max_tiles:
            raise RecipeError(f"a picture cannot have between {self.min_tiles} and {self.max_tiles} tiles")

    @property
    def image_token(self) -> str:
        return self.token

    @property
    def video_token(self) -> str:
        return self.token

    @property
    def frame_sampling(self) -> FrameSampling:
        return self.sampling

    @property
    def video_placeholder(self) -> str:
        return self.video

    @property
    def marks(self) -> tuple[str, ...]:
        return tuple(token for token in (self.before, self.behind) if token)

    def written(self, width: int, height: int) -> str:
        return self.before + self.token * (self.image_tokens * self.count(width, height)) + self.behind

    def written_video(self, width: int, height: int, frames: int) -> str:  # noqa: ARG002  # all frames are alike
        tile = self.before + self.token * self.image_tokens + self.behind
        return "\n".join(f"Frame{number}: {tile}" for number in range(1, frames + 1))

    def count(self, width: int, height: int) -> int:
        """Tiles of a picture of that size, the view of the whole among them."""
        rows, columns = self._grid(width, height)
        return rows * columns + (self.thumbnail and rows * columns > 1)

    def images(
        self,
        images: Sequence[Image | Video],
        generators: Sequence[np.random.Generator] | None = None,  # noqa: ARG002  # there is no augmentation
    ) -> Images:
        """(M, 3, size, size): the tiles of each picture, row by row, then the whole; of a video its frames.

        tiles_N counts them.
        """
        tiles = [self._tiles(image) for image in images]
        return PixelImages(torch.cat(tiles), *owned(tiles))

    def _grid(self, width: int, height: int) -> tuple[int, int]:
        return nearest_grid(width, height, self.size, self.min_tiles, self.max_tiles)

    def _tiles(self, image: Image | Video) -> Tensor:
        transform, size = TileTransform(self.interpolation, self.mean, self.std), self.size
        if isinstance(image, Video):
            return torch.stack([transform.at(frame.decode(), size, size) for frame in self.frames(image)])
        decoded = image.decode()
        rows, columns = self._grid(*decoded.size)
        whole = transform.at(decoded, columns * size, rows * size)
        tiles = whole.view(3, rows, size, columns, size).permute(1, 3, 0, 2, 4).flatten(0, 1)
        if self.thumbnail and len(tiles) > 1:
            tiles = torch.cat([tiles, transform.at(decoded, size, size)[None]])
        return tiles


def nearest_grid(width: int, height: int, size: int, fewest: int, most: int) -> tuple[int, int]:
    """(rows, columns) of the grid of tiles whose shape is nearest to a picture's.

    Of grids of one shape the larger is taken if the picture has more than half as many pixels as that would show.
    """
    best, distance = (1, 1), float("inf")
    for rows, columns in _grids(fewest, most):
        off = abs(width / height - columns / rows)
        if off < distance or (off == distance and 2 * width * height > size**2 * rows * columns):
            best, distance = (rows, columns), off
    return best


@lru_cache(maxsize=8)
def _grids(fewest: int, most: int) -> tuple[tuple[int, int], ...]:
    """All grids of so many tiles, (rows, columns), by their number; narrow ones first among equals, as published."""
    sides = range(1, most + 1)
    found = [(rows, columns) for columns in sides for rows in sides if fewest <= rows * columns <= most]
    return tuple(sorted(found, key=lambda grid: grid[0] * grid[1]))
