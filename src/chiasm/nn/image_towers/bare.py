"""A ViT that makes features alone: the tower of Qwen-VL (Bai et al. 2023, arXiv:2308.12966, section 2.1), OpenCLIP's
ViT-bigG without class token and final norm. Its learned positions are those of 224 pixels, spread over what it sees."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from chiasm.data.batch import Images
from chiasm.errors import RecipeError
from chiasm.nn.attention import Activation, Block, init_transformer, run_blocks
from chiasm.nn.grid_positions import resized
from chiasm.nn.image_towers.vit import PatchEmbed
from chiasm.nn.patch_mask import PatchMask
from chiasm.nn.tower import ImageTower, ImageTowerConfig


@dataclass(frozen=True)
class Config(ImageTowerConfig):
    """image_size and patch in pixels; hidden is the MLP's width.

    positions: how many are learned, a square; they are resized to the picture's patches in every pass.
    """

    image_size: int
    patch: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    positions: int = 256
    act: Activation = "gelu"
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if math.isqrt(self.positions) ** 2 != self.positions or not 1 <= self.patch <= self.image_size:
            raise RecipeError(
                f"positions must be a square number and a picture hold a patch, not {self.positions} positions, "
                f"{self.image_size} pixels and patches of {self.patch}"
            )

    @property
    def patches(self) -> int:
        """P of a picture."""
        return (self.image_size // self.patch) ** 2

    def build(self) -> Bare:
        return Bare(self)


class Bare(ImageTower):
    """Patches and a transformer over them."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.width, self.image_size = config, config.width, config.image_size
        width = config.width
        self.embed = PatchEmbed(3, width, config.patch, stride=config.patch, bias=False)
        self.position = nn.Parameter(torch.empty(config.positions, width))
        self.pre_norm = nn.LayerNorm(width, config.epsilon)
        self.blocks = nn.ModuleList(self._block() for _ in range(config.layers))
        init_transformer(self.blocks, width)
        nn.init.normal_(self.position, std=width**-0.5)

    def tokens(self, images: Images, mask: PatchMask | None = None) -> Tensor:
        """Tokens as they leave the last block, (N, P, D)."""
        return run_blocks(self.blocks, self._embedded(images, mask))

    def _block(self) -> Block:
        config = self.config
        return Block(config.width, config.heads, config.mlp_width, config.act, config.epsilon)

    def _embedded(self, images: Images, mask: PatchMask | None = None) -> Tensor:
        x_NPD = self.embed(self.pixels(images)).flatten(2).transpose(1, 2)
        position_PD = resized(self.position, self.config.image_size // self.config.patch)
        if mask is None:
            return self.pre_norm(x_NPD + position_PD)
        return self.pre_norm(mask.dropped(mask.replaced(x_NPD) + position_PD))
