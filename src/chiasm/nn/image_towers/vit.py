"""Vision Transformer (Dosovitskiy et al. 2020, arXiv:2010.11929), in the variants that CLIP and SigLIP use."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from chiasm.data.batch import Images
from chiasm.errors import DataError, RecipeError
from chiasm.nn.attention import MLP, Activation, Attention, Block, init_transformer
from chiasm.nn.tower import ImageTower, ImageTowerConfig


@dataclass(frozen=True)
class Config(ImageTowerConfig):
    """image_size and patch in pixels; hidden is the MLP's width.

    pool: "class" reads a class token (CLIP), "map" attends with one learned query (SigLIP), "mean" averages.
    pre_norm: normalises the embedded patches too, and leaves the patch projection without bias, as CLIP does.
    stem: channels of early convolutions, each halving the side, in place of the one patch projection; () for none.
        Small models learn much faster with them (Xiao et al. 2021, arXiv:2106.14881).
    """

    image_size: int
    patch: int
    width: int
    layers: int
    heads: int
    hidden: int
    pool: Literal["class", "map", "mean"] = "class"
    act: Activation = "quick_gelu"
    pre_norm: bool = True
    epsilon: float = 1e-5
    stem: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.stem and 2 ** (len(self.stem)) != self.patch:
            raise RecipeError(
                f"a stem of {len(self.stem)} halvings makes patches of {2 ** len(self.stem)}, not {self.patch}"
            )

    def build(self) -> ViT:
        return ViT(self)


class ViT(ImageTower):
    """Patches, a transformer over them, and one vector for the picture."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.width, self.image_size = config, config.width, config.image_size
        # A rest that does not fill a patch is not seen, as in the published 384-pixel model with patches of 14.
        width, patches = config.width, (config.image_size // config.patch) ** 2
        self.embed = (
            conv_stem(config.stem, width)
            if config.stem
            else nn.Conv2d(3, width, config.patch, stride=config.patch, bias=not config.pre_norm)
        )
        self.class_token = nn.Parameter(torch.empty(width)) if config.pool == "class" else None
        self.position = nn.Parameter(torch.empty(patches + (config.pool == "class"), width))
        self.pre_norm = nn.LayerNorm(width, config.epsilon) if config.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.hidden, config.act, config.epsilon) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width, config.epsilon)
        self.pool = MapPool(config) if config.pool == "map" else None
        self._init()

    def forward(self, images: Images) -> Tensor:
        x_NPD = self._blocks(images)
        match self.config.pool:
            case "class":
                return self.norm(x_NPD[:, 0])  # the other tokens' norm would be work for nothing
            case "mean":
                return self.norm(x_NPD).mean(1)
            case "map":
                assert self.pool is not None
                return self.pool(self.norm(x_NPD))

    def tokens(self, images: Images) -> Tensor:
        """Normalised tokens, (N, P, D), the class token first where there is one."""
        return self.norm(self._blocks(images))

    def hidden(self, images: Images, layer: int) -> Tensor:
        """Tokens as they leave a block, (N, P, D), without the final norm; -1 is the last block, -2 the one before."""
        return self._blocks(images, layer)

    def _blocks(self, images: Images, layer: int = -1) -> Tensor:
        size = self.config.image_size
        if images.pixels.shape[-2:] != (size, size):
            height, width = images.pixels.shape[-2:]
            raise DataError(f"this ViT sees {size}x{size} pixels, but was given {width}x{height}; set image.size")
        pixels = images.pixels
        if self.config.stem:  # the layout in which small convolutions are fastest
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        x_NPD = self.embed(pixels).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x_NPD = torch.cat([self.class_token.expand(len(x_NPD), 1, -1), x_NPD], dim=1)
        x_NPD = self.pre_norm(x_NPD + self.position)
        for block in self.blocks[: len(self.blocks) + 1 + layer]:
            x_NPD = block(x_NPD)
        return x_NPD

    def _init(self) -> None:
        init_transformer(self.blocks, self.width)
        nn.init.normal_(self.position, std=self.width**-0.5)
        if self.class_token is not None:
            nn.init.normal_(self.class_token, std=self.width**-0.5)


def conv_stem(channels: tuple[int, ...], width: int) -> nn.Sequential:
    """3x3 convolutions of stride 2, normalised over each picture's channels, then a projection to the width."""
    layers: list[nn.Module] = []
    for before, after in pairwise((3, *channels)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.GroupNorm(1, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(channels[-1], width, 1))


class MapPool(nn.Module):
    """Multi-head attention pooling: one learned query over all tokens, then an MLP (Zhai et al. 2021, 2106.04560)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, 1, config.width))
        self.attention = Attention(config.width, config.heads)
        self.norm = nn.LayerNorm(config.width, config.epsilon)
        self.mlp = MLP(config.width, config.hidden, config.act)
        nn.init.xavier_uniform_(self.query)

    def forward(self, x_NPD: Tensor) -> Tensor:
        pooled_N1D = self.attention(self.query.expand(len(x_NPD), -1, -1), x_NPD)
        return (pooled_N1D + self.mlp(self.norm(pooled_N1D)))[:, 0]
