"""Vision Transformer (Dosovitskiy et al. 2020, arXiv:2010.11929), in the variants that CLIP and SigLIP use."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.data.batch import Images
from chiasm.errors import RecipeError
from chiasm.nn.attention import MLP, Activation, Attention, Block, init_transformer, run_blocks
from chiasm.nn.patch_mask import PatchMask
from chiasm.nn.tower import ImageTowerConfig, PooledImageTower


@dataclass(frozen=True)
class Config(ImageTowerConfig):
    """image_size and patch in pixels; hidden is the MLP's width.

    pool: "class" reads a class token (CLIP), "map" attends with one learned query (SigLIP), "mean" averages.
    pre_norm: normalises the embedded patches too, and leaves the patch projection without bias, as CLIP does.
    stem: channels of early convolutions, each halving the side, in place of the one patch projection; () for none.
        Small models learn much faster with them (Xiao et al. 2021, arXiv:2106.14881).
    keep: the share of patches that are seen in training, drawn anew for every picture; all are seen otherwise. Half of
        them cost half, at a small loss that a little training with all mends (FLIP, Li et al. 2022, arXiv:2212.00794).
    mask_token: whether the tower learns a vector for hidden patches.
    """

    image_size: int
    patch: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    pool: Literal["class", "map", "mean"] = "class"
    act: Activation = "quick_gelu"
    pre_norm: bool = True
    epsilon: float = 1e-5
    stem: tuple[int, ...] = ()
    keep: float = 1.0
    mask_token: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise RecipeError(f"keep is a share of the patches, above 0 and up to 1, not {self.keep:g}")
        if self.stem and 2 ** (len(self.stem)) != self.patch:
            raise RecipeError(
                f"a stem of {len(self.stem)} halvings makes patches of {2 ** len(self.stem)}, not {self.patch}"
            )

    def build(self) -> ViT:
        return ViT(self)

    def grid(self) -> tuple[int, int]:
        return self.image_size, self.image_size // self.patch


class ViT(PooledImageTower):
    """Patches, a transformer over them, and one vector for the picture."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.width, self.image_size = config, config.width, config.image_size
        self.prefix = int(config.pool == "class")
        # A rest that does not fill a patch is not seen, as in the published 384-pixel model with patches of 14.
        width, patches = config.width, (config.image_size // config.patch) ** 2
        self.embed = (
            conv_stem(config.stem, width)
            if config.stem
            else PatchEmbed(3, width, config.patch, stride=config.patch, bias=not config.pre_norm)
        )
        self.class_token = nn.Parameter(torch.empty(width)) if config.pool == "class" else None
        self.position = nn.Parameter(torch.empty(patches + (config.pool == "class"), width))
        self.pre_norm = nn.LayerNorm(width, config.epsilon) if config.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.mlp_width, config.act, config.epsilon) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width, config.epsilon)
        self.pool = MapPool(config) if config.pool == "map" else None
        if config.mask_token:
            self.mask_token = nn.Parameter(torch.empty(width))
        self._init()

    def forward(self, images: Images, mask: PatchMask | None = None) -> Tensor:
        if mask is None and self.training and self.config.keep < 1:
            mask = self._drawn(len(images.pixels))
        x_NPD = self._embedded(images, mask)
        if self.config.pool == "class":  # what the other places become in the last block is read by nothing
            return self.norm(run_blocks(self.blocks, x_NPD, asked=lambda x: x[:, :1])[:, 0])
        x_NPD = self.norm(run_blocks(self.blocks, x_NPD))
        return self.pool(x_NPD) if self.pool is not None else x_NPD.mean(1)

    def both(self, images: Images, mask: PatchMask | None = None) -> tuple[Tensor, Tensor]:
        """In one pass, of all patches, whatever `keep` is."""
        x_NPD = self.tokens(images, mask)
        if self.pool is not None:
            return self.pool(x_NPD), x_NPD
        return x_NPD[:, 0] if self.config.pool == "class" else x_NPD.mean(1), x_NPD

    def tokens(self, images: Images, mask: PatchMask | None = None) -> Tensor:
        """Normalised tokens, (N, P, D), the class token first where there is one; all of them, whatever `keep` is."""
        return self.norm(run_blocks(self.blocks, self._embedded(images, mask)))

    def hidden_states(self, images: Images, layer: int) -> Tensor:
        """Tokens as they leave a block, (N, P, D), without the final norm; -1 is the last block, -2 the one before."""
        return run_blocks(self.blocks[: len(self.blocks) + 1 + layer], self._embedded(images))

    def unread(self, layer: int) -> tuple[nn.Module, ...]:
        if not -len(self.blocks) <= layer <= -1:
            raise RecipeError(f"model.layer: the tower has layers from -{len(self.blocks)} to -1, not {layer}")
        later = self.blocks[len(self.blocks) + 1 + layer :]
        return (self.norm, *later) if self.pool is None else (self.norm, self.pool, *later)

    def _embedded(self, images: Images, mask: PatchMask | None = None) -> Tensor:
        pixels = self.pixels(images)
        if self.config.stem:  # the layout in which small convolutions are fastest
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        x_NPD = self.embed(pixels).flatten(2).transpose(1, 2)
        if mask is not None:
            x_NPD = mask.replaced(x_NPD)
        if self.class_token is not None:
            x_NPD = torch.cat([self.class_token.expand(len(x_NPD), 1, -1), x_NPD], dim=1)
        x_NPD = x_NPD + self.position
        return self.pre_norm(x_NPD if mask is None else mask.dropped(x_NPD, self.prefix))

    def _drawn(self, images: int) -> PatchMask:
        """A mask that hides all but the share `keep` of the patches, drawn for each image on its own."""
        device, patches = self.position.device, len(self.position) - self.prefix
        kept_NK = torch.rand(images, patches, device=device).argsort(1)[:, : max(1, round(self.config.keep * patches))]
        return PatchMask(torch.ones(images, patches, dtype=torch.bool, device=device).scatter(1, kept_NK, False))

    def _init(self) -> None:
        init_transformer(self.blocks, self.width)
        nn.init.normal_(self.position, std=self.width**-0.5)
        for token in (self.class_token, self.mask_token):
            if token is not None:
                nn.init.normal_(token, std=self.width**-0.5)


class PatchEmbed(nn.Conv2d):
    """A convolution whose windows neither overlap nor leave gaps, as the matrix product that it is."""

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        side = self.stride[0]
        count, channels, *sides = pixels_NCHW.shape
        high, wide = (length // side for length in sides)
        cut = pixels_NCHW[..., : high * side, : wide * side].reshape(count, channels, high, side, wide, side)
        patches_NPC = cut.permute(0, 2, 4, 1, 3, 5).reshape(count, high * wide, channels * side * side)
        embedded_NPD = F.linear(patches_NPC, self.weight.flatten(1), self.bias)
        return embedded_NPD.transpose(1, 2).reshape(count, -1, high, wide)


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
        self.mlp = MLP(config.width, config.mlp_width, config.act)
        nn.init.xavier_uniform_(self.query)

    def forward(self, x_NPD: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N, D). mask: as that of Attention."""
        pooled_N1D = self.attention(self.query.expand(len(x_NPD), -1, -1), x_NPD, mask=mask)
        return (pooled_N1D + self.mlp(self.norm(pooled_N1D)))[:, 0]
