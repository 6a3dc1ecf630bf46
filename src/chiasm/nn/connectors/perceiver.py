"""A Perceiver resampler: a few learned latents attend to all features of a picture and to each other, in several layers
(Flamingo, Alayrac et al. 2022, arXiv:2204.14198), as Idefics2 has it (arXiv:2405.02246, section 3): features are
first mapped by a gated MLP, heads share keys and values, norms are RMS norms.

Shapes: N pictures, P features, K latents, D width of the language model, H heads, G groups of keys, E of a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.errors import RecipeError
from chiasm.nn.connector import ConnectorConfig
from chiasm.nn.decoder import GatedMLP


@dataclass(frozen=True)
class Config(ConnectorConfig):
    """hidden: width of the MLP that maps features. latents: image tokens of an image.

    head_width: of each of the `heads`. kv_heads: of keys and values.
    """

    mlp_width: int
    latents: int = 64
    layers: int = 3
    heads: int = 16
    head_width: int = 96
    kv_heads: int = 4
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if self.latents < 1 or self.kv_heads < 1 or self.heads % self.kv_heads:
            raise RecipeError(
                f"{self.heads} heads cannot share {self.kv_heads} groups of keys and values for {self.latents} latents"
            )

    def build(self, features: int, width: int) -> nn.Module:
        layers = [
            Layer(
                SharedAttention(width, self.heads, self.kv_heads, self.head_width),
                GatedMLP(width, 4 * width),
                *(nn.RMSNorm(width, self.epsilon) for _ in range(3)),
            )
            for _ in range(self.layers)
        ]
        return Connector(
            GatedMLP(features, self.mlp_width, width), self.latents, width, layers, nn.RMSNorm(width, self.epsilon)
        )

    def image_tokens(self, patches: int) -> int:  # noqa: ARG002  # as many for any picture
        return self.latents


class Connector(nn.Module):
    """(N, P, features) to (N, K, D). mapping: of features to the width of the latents; parts are handed in."""

    def __init__(self, mapping: nn.Module, latents: int, width: int, layers: Sequence[Layer], norm: nn.Module) -> None:
        super().__init__()
        self.map, self.latents = mapping, nn.Parameter(torch.empty(latents, width))
        self.layers, self.norm = nn.ModuleList(layers), norm
        # Alike, as the published ones begin, latents would stay alike for ever: nothing else tells them apart.
        nn.init.normal_(self.latents, std=width**-0.5)

    def forward(self, x_NPD: Tensor, mask_NP: Tensor | None = None) -> Tensor:
        """mask_NP: which features are of a picture; all where None."""
        context_NPD = self.map(x_NPD)
        latents_NKD = self.latents.expand(len(x_NPD), -1, -1)
        mask = None
        if mask_NP is not None:  # latents always see each other
            mask = F.pad(mask_NP, (0, len(self.latents)), value=True)[:, None, None]
        for layer in self.layers:
            latents_NKD = layer(latents_NKD, context_NPD, mask)
        return self.norm(latents_NKD)


class Layer(nn.Module):
    """latents + attention(norm(latents), norm(context)), then latents + mlp(norm(latents)); parts are handed in."""

    def __init__(
        self, attention: SharedAttention, mlp: nn.Module, norm1: nn.Module, context_norm: nn.Module, norm2: nn.Module
    ) -> None:
        super().__init__()
        self.norm1, self.context_norm, self.norm2, self.attention, self.mlp = norm1, context_norm, norm2, attention, mlp

    def forward(self, latents_NKD: Tensor, context_NPD: Tensor, mask: Tensor | None) -> Tensor:
        latents_NKD = latents_NKD + self.attention(self.norm1(latents_NKD), self.context_norm(context_NPD), mask)
        return latents_NKD + self.mlp(self.norm2(latents_NKD))


class SharedAttention(nn.Module):
    """Latents attend to the context and to themselves; H heads share G groups of keys and values.

    q_norm, k_norm: of each head's queries and keys; none where None.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        head_width: int,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.head_width = head_width
        self.q = nn.Linear(width, heads * head_width, bias=False)
        self.k = nn.Linear(width, kv_heads * head_width, bias=False)
        self.v = nn.Linear(width, kv_heads * head_width, bias=False)
        self.out = nn.Linear(heads * head_width, width, bias=False)
        self.q_norm, self.k_norm = q_norm or nn.Identity(), k_norm or nn.Identity()

    def forward(self, latents_NKD: Tensor, context_NPD: Tensor, mask: Tensor | None) -> Tensor:
        seen_NSD = torch.cat([context_NPD, latents_NKD], dim=1)
        q, k, v = (
            linear(x).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for linear, x in ((self.q, latents_NKD), (self.k, seen_NSD), (self.v, seen_NSD))
        )
        q, k = self.q_norm(q), self.k_norm(k)
        mixed_NHKE = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
        return self.out(mixed_NHKE.transpose(1, 2).flatten(2))
