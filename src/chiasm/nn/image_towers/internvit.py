"""InternViT: the image tower of InternVL (Chen et al. 2023, arXiv:2312.14238; of 448 pixels since arXiv:2404.16821).

A ViT whose branches are scaled before they are added (Touvron et al. 2021, arXiv:2103.17239), and whose queries and
keys are normalised where it is large (Dehghani et al. 2023, arXiv:2302.05442). There is no final norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.data.batch import Images
from chiasm.errors import RecipeError
from chiasm.nn.attention import MLP, Activation
from chiasm.nn.image_towers.vit import PatchEmbed
from chiasm.nn.patch_mask import PatchMask
from chiasm.nn.recompute import Recomputable, recomputed
from chiasm.nn.tower import ImageTower, ImageTowerConfig

_QK_EPSILON = 1e-6  # whatever the epsilon of the other norms


@dataclass(frozen=True)
class Config(ImageTowerConfig):
    """image_size and patch in pixels; hidden is the MLP's width.

    norm: of the blocks' inputs, over mean and variance or over the root of the mean square. bias: of queries, keys and
    values. qk_norm: whether queries and keys are normalised, over all heads together. scale: what the branches are
    scaled by in the beginning.
    """

    image_size: int
    patch: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    act: Activation = "gelu"
    norm: Literal["layer", "rms"] = "layer"
    bias: bool = True
    qk_norm: bool = False
    epsilon: float = 1e-6
    scale: float = 0.1

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise RecipeError(f"a width of {self.width} cannot be split into {self.heads} heads")

    def build(self) -> InternViT:
        return InternViT(self)

    def grid(self) -> tuple[int, int]:
        return self.image_size, self.image_size // self.patch


class InternViT(ImageTower):
    """Patches and a class token, and a transformer over them; a picture's vector is the mean of its patches."""

    prefix = 1

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.width, self.image_size = config, config.width, config.image_size
        self.embed = PatchEmbed(3, config.width, config.patch, stride=config.patch)
        self.class_token = nn.Parameter(torch.empty(config.width))
        self.position = nn.Parameter(torch.empty((config.image_size // config.patch) ** 2 + 1, config.width))
        self.blocks = nn.ModuleList(ScaledBlock(config) for _ in range(config.layers))
        for linear in self.modules():
            if isinstance(linear, nn.Linear):
                nn.init.normal_(linear.weight, std=0.02)
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)
        for learned in (self.class_token, self.position):
            nn.init.normal_(learned, std=0.02)

    def tokens(self, images: Images, mask: PatchMask | None = None) -> Tensor:
        """(N, P, D), the class token first."""
        x_NPD = self.embed(self.pixels(images)).flatten(2).transpose(1, 2)
        if mask is not None:
            x_NPD = mask.replaced(x_NPD)
        x_NPD = torch.cat([self.class_token.expand(len(x_NPD), 1, -1), x_NPD], dim=1) + self.position
        if mask is not None:
            x_NPD = mask.dropped(x_NPD, self.prefix)
        for block in self.blocks:
            x_NPD = block(x_NPD)
        return x_NPD


class ScaledBlock(Recomputable):
    """x + scale1 * attention(norm1(x)), then x + scale2 * mlp(norm2(x)); a scale for each number of the width."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        norm = nn.LayerNorm if config.norm == "layer" else nn.RMSNorm
        self.norm1, self.norm2 = norm(config.width, config.epsilon), norm(config.width, config.epsilon)
        self.attention, self.mlp = NormedAttention(config), MLP(config.width, config.mlp_width, config.act)
        self.scale1, self.scale2 = (nn.Parameter(torch.full((config.width,), config.scale)) for _ in range(2))

    @recomputed
    def forward(self, x_NPD: Tensor) -> Tensor:
        x_NPD = x_NPD + self.scale1 * self.attention(self.norm1(x_NPD))
        return x_NPD + self.scale2 * self.mlp(self.norm2(x_NPD))


class NormedAttention(nn.Module):
    """Self-attention; queries and keys may be normalised before they are split into heads."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        self.q, self.k, self.v = (nn.Linear(width, width, config.bias) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.q_norm = nn.RMSNorm(width, _QK_EPSILON) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(width, _QK_EPSILON) if config.qk_norm else nn.Identity()

    def forward(self, x_NPD: Tensor) -> Tensor:
        parts = (self.q_norm(self.q(x_NPD)), self.k_norm(self.k(x_NPD)), self.v(x_NPD))
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
