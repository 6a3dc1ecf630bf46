"""A picture at its own aspect ratio, in four quarters and as a whole: Idefics2 (arXiv:2405.02246, section 3).

Each part takes the same few image tokens, whatever its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import PIL.Image

from chiasm.data.batch import Images, PatchImages
from chiasm.data.chat import IMAGE
from chiasm.data.image import Image
from chiasm.data.layout import Layout
from chiasm.data.patches import filled_up, patches_of
from chiasm.data.tiles import TileTransform, owned
from chiasm.errors import DataError, RecipeError

_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Native(Layout):
    """A picture at its own aspect ratio, in quarters and whole. patch: side of a patch in pixels.

    shortest, longest: bounds of a part's sides in pixels; the upper one keeps the aspect ratio, the lower one need not.
    image_tokens: of a part. token: the image token; around: stands around each part.
    split: False shows the whole picture alone.
    """

    shortest: int = 378
    longest: int = 980
    patch: int = 14
    image_tokens: int = 64
    split: bool = True
    transform: TileTransform = field(default_factory=lambda: TileTransform("bilinear", _HALF, _HALF))
    token: str = "<image>"  # noqa: S105  # a token of text, no secret
    around: str = "<fake_token_around_image>"

    def __post_init__(self) -> None:
        if self.image_tokens < 1 or not 1 <= self.patch <= self.shortest <= self.longest:
            raise RecipeError(
                f"{self.image_tokens} image tokens, patches of {self.patch} and sides of {self.shortest} to "
                f"{self.longest} pixels do not make a layout"
            )

    @property
    def image_token(self) -> str:
        return self.token

    @property
    def marks(self) -> tuple[str, ...]:
        return (self.around,)

    def written(self, width: int, height: int) -> str:
        self._check(width, height)
        return (self.around + self.token * self.image_tokens) * (5 if self.split else 1) + self.around

    def beside(self, written: str, following: str) -> str:
        """One mark stands between pictures, and a blank before words that follow at once."""
        if following == IMAGE or following.startswith(self.around):
            return written.removesuffix(self.around)
        return written + " " if following[:1] not in ("", "<") and not following[0].isspace() else written

    def images(
        self,
        images: Sequence[Image],
        generators: Sequence[np.random.Generator] | None = None,  # noqa: ARG002  # nothing is drawn
    ) -> Images:
        parts = [self._parts(image.decode()) for image in images]
        made = self.transform.pixels([part for image_parts in parts for part in image_parts])
        pixels, grid = filled_up([patches_of(part, self.patch) for part in made], self.patch)
        row_N, tiles_N = owned(parts)
        return PatchImages(pixels, row_N, grid, tiles_N)

    def _parts(self, image: PIL.Image.Image) -> list[PIL.Image.Image]:
        width, height = image.size
        self._check(width, height)
        x, y = width // 2, height // 2
        corners = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
        parts = [*(image.crop(box) for box in (corners if self.split else ())), image]
        return [self.transform.resized(part, *bounded(*part.size, self.shortest, self.longest)) for part in parts]

    def _check(self, width: int, height: int) -> None:
        if self.split and min(width, height) < 2:
            raise DataError(f"a picture of {width}x{height} pixels cannot be cut into quarters; it needs 2 a side")


def bounded(width: int, height: int, shortest: int, longest: int) -> tuple[int, int]:
    """Width and height of a picture whose longer side is at most `longest`, and its sides at least `shortest`."""
    aspect = width / height
    if width >= height and width > longest:
        width, height = longest, int(longest / aspect)
    elif height > width and height > longest:
        width, height = int(longest * aspect), longest
    return max(width, shortest), max(height, shortest)
