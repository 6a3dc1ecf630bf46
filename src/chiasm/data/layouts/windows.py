"""A picture stretched to a few windows, and a small view of the whole: Monkey (Li et al. 2023, arXiv:2311.06607,
section 3.1): 1344x896 pixels, six windows of 448, 1,792 image tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from chiasm.data.batch import Images, PixelImages
from chiasm.data.image import Image
from chiasm.data.layout import Layout
from chiasm.data.tiles import TileTransform, owned
from chiasm.errors import RecipeError


@dataclass(frozen=True)
class Windows(Layout):
    """A grid of windows, to which every image is stretched. window: side of one in pixels. rows, columns: of the grid.

    image_tokens: of a window. token: the image token. before, behind: around a picture.
    """

    window: int = 448
    rows: int = 2
    columns: int = 3
    image_tokens: int = 256
    transform: TileTransform = field(default_factory=TileTransform)
    token: str = "<imgpad>"  # noqa: S105  # a token of text, no secret
    before: str = "<img>"
    behind: str = "</img>"

    def __post_init__(self) -> None:
        if min(self.window, self.rows, self.columns, self.image_tokens) < 1:
            raise RecipeError(
                f"{self.rows} rows and {self.columns} columns of windows of {self.window} pixels with "
                f"{self.image_tokens} image tokens do not make a layout"
            )

    @property
    def image_token(self) -> str:
        return self.token

    @property
    def marks(self) -> tuple[str, ...]:
        return tuple(token for token in (self.before, self.behind) if token)

    @property
    def parts(self) -> int:
        """The number of windows of a picture, plus one for the whole."""
        return self.rows * self.columns + 1

    def written(self, width: int, height: int) -> str:  # noqa: ARG002  # one size fits all
        return self.before + self.token * (self.image_tokens * self.parts) + self.behind

    def images(
        self,
        images: Sequence[Image],
        generators: Sequence[np.random.Generator] | None = None,  # noqa: ARG002  # there is no augmentation
    ) -> Images:
        """Each picture's windows, row by row, and then the whole; (M, 3, window, window)."""
        side = self.window
        stretched = [self.transform.resized(image.decode(), side * self.columns, side * self.rows) for image in images]
        pixels_NCHW = torch.stack(self.transform.pixels(stretched))
        # From the large picture, each value from the 16 around it, as the published code has it.
        whole_NCHW = F.interpolate(pixels_NCHW, (side, side), mode="bicubic", align_corners=False)
        cut = pixels_NCHW.view(len(images), 3, self.rows, side, self.columns, side)
        windows_NMCHW = cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        made_NMCHW = torch.cat([windows_NMCHW, whole_NCHW[:, None]], dim=1)
        return PixelImages(made_NMCHW.flatten(0, 1), *owned(list(made_NMCHW)))
