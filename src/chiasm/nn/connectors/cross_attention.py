"""A resampler: a few learned queries read all features of a picture by one cross-attention (Qwen-VL, Bai et al. 2023,
arXiv:2308.12966, section 2.1; MiniCPM-V, Yao et al. 2024, arXiv:2408.01800, section 3.1).

Positions are sines and cosines on two axes, added to keys and never to values. Details are those of the published code.

Shapes: N pictures, P features, K queries, D width of the language model, H heads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.errors import DataError, RecipeError
from chiasm.nn.connector import ConnectorConfig
from chiasm.nn.grid_positions import on_grids, resized, sines


@dataclass(frozen=True)
class Config(ConnectorConfig):
    """queries: image tokens of a picture. heads: of the attention.

    places: "shared": queries stand on a square grid and have its positions; keys have the same ones, resized to their
        own square (Qwen-VL). "own": each picture's features have the positions of its own grid, whatever its shape;
        queries have none (MiniCPM-V).
    """

    queries: int
    heads: int
    places: Literal["shared", "own"] = "own"
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if min(self.queries, self.heads) < 1 or (
            self.places == "shared" and math.isqrt(self.queries) ** 2 != self.queries
        ):
            raise RecipeError(
                f"{self.queries} queries and {self.heads} heads do not make a resampler; both are 1 or more, and "
                "queries with places of their own are a square number"
            )

    def build(self, features: int, width: int) -> Resampler:
        return Resampler(features, width, self)

    def image_tokens(self, patches: int) -> int:  # noqa: ARG002  # as many for any picture
        return self.queries


class Resampler(nn.Module):
    """project(norm(attention(queries, features))), (N, P, features) to (N, K, D)."""

    position: Tensor | None  # (K, D) of the queries, where they have places

    def __init__(self, features: int, width: int, config: Config) -> None:
        super().__init__()
        if width % config.heads or width % 4:
            raise RecipeError(f"a width of {width} cannot be split into {config.heads} heads and sines of two axes")
        self.heads, self.width = config.heads, width
        self.queries = nn.Parameter(torch.empty(config.queries, width))
        self.map = nn.Linear(features, width, bias=False) if features != width else nn.Identity()
        self.query_norm, self.norm1, self.norm2 = (nn.LayerNorm(width, config.epsilon) for _ in range(3))
        self.attention = CrossAttention(width, config.heads)
        self.project = nn.Linear(width, width, bias=False)
        side = math.isqrt(config.queries)
        # Published checkpoints store it, in their precision.
        self.register_buffer("position", sines(side, side, width) if config.places == "shared" else None)
        self._init()

    def forward(self, x_NPD: Tensor, grid_N2: Tensor | None = None, mask_NP: Tensor | None = None) -> Tensor:
        """grid_N2: rows and columns of each picture's features; a square where None. mask_NP: which are of a picture.

        Raises DataError for features that are no square where none says what else they are.
        """
        context_NPD = self.norm1(self.map(x_NPD))
        queries_KD = self.query_norm(self.queries)
        if self.position is not None:
            queries_KD = queries_KD + self.position.to(queries_KD.dtype)
        keys_NPD = context_NPD + self._places(x_NPD.shape[1], grid_N2).to(context_NPD)
        mask = mask_NP[:, None, None] if mask_NP is not None else None
        return self.project(self.norm2(self.attention(queries_KD, keys_NPD, context_NPD, mask)))

    def _places(self, patches: int, grid_N2: Tensor | None) -> Tensor:
        """(N, P, D) or (1, P, D): the positions of the features, zeros where a batch is filled up."""
        if grid_N2 is not None and self.position is None:
            return on_grids(grid_N2, patches, lambda rows, columns: sines(rows, columns, self.width))
        side = math.isqrt(patches)
        if side**2 != patches:
            raise DataError(f"{patches} features are no square grid, and nothing says what else they are")
        if self.position is None:
            return sines(side, side, self.width)[None]
        return resized(self.position, side)[None]

    def _init(self) -> None:
        nn.init.trunc_normal_(self.queries, std=0.02)
        nn.init.normal_(self.project.weight, std=self.width**-0.5)
        if isinstance(self.map, nn.Linear):
            nn.init.trunc_normal_(self.map.weight, std=0.02)


class CrossAttention(nn.Module):
    """softmax(q k^T / sqrt(D/H)) v, with keys that are not the values: they know where they are."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        for linear in (self.q, self.k, self.v, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, queries_KD: Tensor, keys_NPD: Tensor, values_NPD: Tensor, mask: Tensor | None) -> Tensor:
        """(N, K, D). mask: True where attention is allowed, (N, 1, 1, P)."""
        q_HKE = self.q(queries_KD).unflatten(-1, (self.heads, -1)).transpose(0, 1)
        k, v = (
            linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear, x in ((self.k, keys_NPD), (self.v, values_NPD))
        )
        mixed_NHKE = F.scaled_dot_product_attention(q_HKE.expand(len(k), -1, -1, -1), k, v, attn_mask=mask)
        return self.out(mixed_NHKE.transpose(1, 2).flatten(2))
