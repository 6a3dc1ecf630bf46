"""LLaVA-NeXT (LLaVA-1.6): LLaVA that reads pictures at up to four times the resolution (Liu et al. 2024, after
arXiv:2310.03744), as a grid of tiles whose shape follows from the picture: 2,880 image tokens at the most."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from chiasm.data.batch import Images, PixelImages
from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.layouts.any_resolution import GRIDS, AnyResolution, Grids, grid_shape, window
from chiasm.errors import RecipeError
from chiasm.models import llava
from chiasm.models.llava import LLaVA
from chiasm.models.model import Model
from chiasm.models.needed_layout import NeededLayout
from chiasm.nn.decoders import llama
from chiasm.nn.image_towers import vit


@dataclass(frozen=True)
class Config(llava.Config):
    """As LLaVA's. grids: (height, width) in pixels of the grids that a picture may be laid on.

    The class token has no image token: a grid has no place for it.
    """

    vision: vit.Config
    grids: Grids = GRIDS

    def __post_init__(self) -> None:
        if self.class_token:
            raise RecipeError("LLaVA-NeXT lays features out on a grid, where the class token has no place")

    @classmethod
    def model(cls) -> type[Model]:
        return LLaVANeXT

    def processor_entries(self) -> dict[str, Any]:
        tower = self.vision
        layout = {"layout": "any_resolution", "tile": tower.image_size, "patch": tower.patch, "grids": self.grids}
        return {"context": self.language.context, "layout": layout}


class LLaVANeXT(LLaVA):
    """Features of the whole picture, then those of its tiles, row by row; a learned vector ends each row."""

    config: Config

    def __init__(self, config: Config, processor: ChatProcessor) -> None:
        super().__init__(config, processor)
        self.newline = nn.Parameter(torch.empty(self.language.width))
        nn.init.normal_(self.newline, std=self.language.width**-0.5)

    @property
    def needed_layout(self) -> NeededLayout:
        tower = self.config.vision
        settings = {"tile": tower.image_size, "patch": tower.patch, "grids": self.config.grids}
        return NeededLayout(AnyResolution, settings)

    def image_features(self, images: Images) -> Tensor:
        assert isinstance(images, PixelImages)
        assert images.tiles_N is not None
        assert images.sizes_N2 is not None
        per_image = torch.split(self.patch_features(images), images.tiles_N.tolist())
        rows = [self._in_rows(*pair) for pair in zip(per_image, images.sizes_N2.tolist(), strict=True)]
        return torch.cat([torch.cat([tiles[0], row]) for tiles, row in zip(per_image, rows, strict=True)])

    def _in_rows(self, tiles_MPD: Tensor, size: tuple[int, int]) -> Tensor:
        """(S, D): the tiles put together, cut down to what the picture covers, with a vector after each row."""
        (height, width), side = size, self.config.vision.image_size // self.config.vision.patch
        down, across = grid_shape(width, height, self.config.grids, self.config.vision.image_size)
        whole_HWD = (
            tiles_MPD[1:].view(down, across, side, side, -1).transpose(1, 2).reshape(down * side, across * side, -1)
        )
        rows, columns = window(width, height, down, across, side)
        top, left = (down * side - rows) // 2, (across * side - columns) // 2
        seen_HWD = whole_HWD[top : top + rows, left : left + columns]
        return torch.cat([seen_HWD, self.newline.expand(rows, 1, -1)], dim=1).flatten(0, 1)


_MISTRAL = replace(llama.SIZES["mistral-7b"], vocabulary=32_064, theta=1e6, window=None)
_LLAMA3 = replace(llama.SIZES["llama3-8b"], vocabulary=128_320)
_YI = llama.Config(64_064, 7_168, 60, 56, 8, 20_480, 4_096, theta=5e6)
_SEEN = llava.CLIP_L_336

SIZES = {
    "vicuna-7b": Config(_SEEN, llava.SIZES["v1.5-7b"].language),
    "vicuna-13b": Config(_SEEN, llava.SIZES["v1.5-13b"].language),
    "mistral-7b": Config(_SEEN, _MISTRAL),
    "llama3-8b": Config(_SEEN, _LLAMA3),
    "34b": Config(_SEEN, _YI),
    # For pictures of up to 128 pixels a side, trained on a laptop.
    "small": Config(
        llava.SMALL,
        llava.SIZES["small"].language,
        layer=-1,
        grids=((64, 128), (128, 64), (128, 128), (192, 64), (64, 192)),
    ),
}
