"""MAPL's mapping network (Mañas et al. 2022, arXiv:2210.07179, section 3.1): features are projected down, learned
queries are put beside them, all attend to all in a narrow transformer, and what became of the queries is projected up.

Shapes: N pictures, P features, K queries, W the narrow width, D width of the language model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from chiasm.errors import RecipeError
from chiasm.nn.attention import Block, init_transformer, run_blocks
from chiasm.nn.connector import ConnectorConfig


@dataclass(frozen=True)
class Config(ConnectorConfig):
    """queries: K, image tokens of a picture. width: W. hidden: of the blocks' MLPs."""

    queries: int = 32
    width: int = 256
    layers: int = 4
    heads: int = 8
    mlp_width: int = 512

    def __post_init__(self) -> None:
        if min(self.queries, self.layers) < 1:
            raise RecipeError(f"a mapper needs at least one query and one layer, not {self.queries} and {self.layers}")

    def build(self, features: int, width: int) -> nn.Module:
        return Connector(features, width, self)

    def image_tokens(self, patches: int) -> int:  # noqa: ARG002  # as many for any picture
        return self.queries


class Connector(nn.Module):
    """(N, P, features) to (N, K, D). Nothing tells one feature's place from another's, unless the tower does."""

    def __init__(self, features: int, width: int, config: Config) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(features, config.width), nn.Linear(config.width, width)
        self.queries = nn.Parameter(torch.randn(config.queries, config.width))
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_width, "relu") for _ in range(config.layers)
        )
        init_transformer(self.blocks, config.width)

    def forward(self, x_NPD: Tensor) -> Tensor:
        patches = x_NPD.shape[1]
        x_NSW = torch.cat([self.down(x_NPD), self.queries.expand(len(x_NPD), -1, -1)], dim=1)
        return self.up(run_blocks(self.blocks, x_NSW, asked=lambda x: x[:, patches:]))
