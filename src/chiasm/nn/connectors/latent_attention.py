"""Learned latents that attend once to a picture's features and to themselves: Kosmos-2 (Peng et al. 2023,
arXiv:2306.14824, section 3.1), after Flamingo's resampler, of which it keeps one attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from chiasm.errors import RecipeError
from chiasm.nn.attention import Attention
from chiasm.nn.connector import ConnectorConfig


@dataclass(frozen=True)
class Config(ConnectorConfig):
    """latents: image tokens of a picture."""

    latents: int = 64
    heads: int = 32

    def build(self, features: int, width: int) -> nn.Module:
        return Connector(features, width, self)

    def image_tokens(self, patches: int) -> int:  # noqa: ARG002  # as many for any picture
        return self.latents


class Connector(nn.Module):
    """(N, P, features) to (N, K, D): attention(latents, [map(x), latents])."""

    def __init__(self, features: int, width: int, config: Config) -> None:
        super().__init__()
        if config.latents < 1:
            raise RecipeError(f"a picture needs at least one latent, not {config.latents}")
        self.map = nn.Linear(features, width)
        self.latents = nn.Parameter(torch.empty(config.latents, width))
        self.attention = Attention(width, config.heads)
        nn.init.normal_(self.latents)

    def forward(self, x_NPD: Tensor) -> Tensor:
        latents_NKD = self.latents.expand(len(x_NPD), -1, -1)
        return self.attention(latents_NKD, torch.cat([self.map(x_NPD), latents_NKD], dim=1))
