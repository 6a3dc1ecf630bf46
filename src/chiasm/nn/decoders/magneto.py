"""MAGNETO (Wang et al. 2022, arXiv:2210.06423) as Kosmos-1 and Kosmos-2 have it (arXiv:2306.14824): a second layer norm
in each half of a block, before its last map, and fixed positions of sines and cosines.

Differs from the paper: no dropout, as in all decoders here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from chiasm.nn.attention import Activation, activation
from chiasm.nn.decoder import AttentionBackend, Decoder, DecoderBlock, DecoderConfig, GroupedAttention


@dataclass(frozen=True)
class Config(DecoderConfig):
    """hidden: the MLP's width. first: the position of a sequence's first token; those before it are for padding.

    scaled: whether embeddings, features of pictures too, are multiplied by the root of the width.
    tied: the head is the token embeddings.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    context: int
    act: Activation = "gelu"
    epsilon: float = 1e-5
    first: int = 2
    scaled: bool = True
    tied: bool = True

    def build(self) -> Decoder:
        return Magneto(self)


class Magneto(Decoder):
    """A decoder whose inputs are scaled, and have positions added, before the first block."""

    def __init__(self, config: Config) -> None:
        embed = nn.Embedding(config.vocabulary, config.width)
        head = None if config.tied else nn.Linear(config.width, config.vocabulary, bias=False)
        norm = nn.LayerNorm(config.width, config.epsilon)
        super().__init__(embed, _blocks(config), norm, context=config.context, rotary=None, head=head)
        self.scale, self.first = math.sqrt(config.width) if config.scaled else 1.0, config.first
        # Scaled embeddings are added to sines, whose values are of the order of one.
        nn.init.normal_(embed.weight, std=1 / self.scale if config.scaled else 0.02)
        if head is not None:
            nn.init.normal_(head.weight, std=0.02)

    def forward(self, x_TD: Tensor, positions: Tensor, backend: AttentionBackend) -> Tensor:
        placed_TD = sinusoids(positions + self.first, self.width).to(x_TD.dtype)
        return super().forward(x_TD * self.scale + placed_TD, positions, backend)


class SubNormMLP(nn.Module):
    """down(norm(act(up x)))."""

    def __init__(self, width: int, mlp_width: int, act: Activation, epsilon: float) -> None:
        super().__init__()
        self.up, self.act = nn.Linear(width, mlp_width), activation(act)
        self.norm, self.down = nn.LayerNorm(mlp_width, epsilon), nn.Linear(mlp_width, width)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.down(self.norm(self.act(self.up(x_TD))))


def sinusoids(positions_T: Tensor, width: int) -> Tensor:
    """(T, D): sines, then cosines, of the positions at wavelengths from 2 pi to 20,000 pi (as tensor2tensor has it)."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=positions_T.device).float() * -(math.log(10_000) / (half - 1)))
    angles = positions_T.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos(), angles.new_zeros(len(angles), width % 2)], dim=1)


def _blocks(config: Config) -> Sequence[DecoderBlock]:
    width, epsilon = config.width, config.epsilon
    blocks = [
        DecoderBlock(
            GroupedAttention(
                width,
                config.heads,
                config.heads,
                width // config.heads,
                rotary=None,
                bias=True,
                out_bias=True,
                inner_norm=epsilon,
            ),
            SubNormMLP(width, config.mlp_width, config.act, epsilon),
            nn.LayerNorm(width, epsilon),
            nn.LayerNorm(width, epsilon),
        )
        for _ in range(config.layers)
    ]
    # Section 3.2 of the paper: with N layers, what adds to the stream is scaled by the root of log 2N.
    gain = math.sqrt(math.log(2 * config.layers))
    for block in blocks:
        mlp, attention = block.mlp, block.attention
        assert isinstance(mlp, SubNormMLP)
        for linear, scale in (
            (attention.q, 1.0),
            (attention.k, 1.0),
            (attention.v, gain),
            (attention.out, gain),
            (mlp.up, gain),
            (mlp.down, gain),
        ):
            nn.init.xavier_normal_(linear.weight, gain=scale)
            nn.init.zeros_(linear.bias)
    return blocks


SIZES = {
    "kosmos-2": Config(65_037, 2_048, 24, 32, 8_192, 2_048),
    # For tests and laptops; the vocabulary has room for 1,024 cells of a picture.
    "small": Config(2_048, 128, 4, 4, 512, 512),
}
