"""OPT (Zhang et al. 2022, arXiv:2205.01068): learned positions, layer norms before each part, ReLU, biases throughout.

The 350M model, which normalises after each part and embeds words in another width, is not here."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from chiasm.errors import RecipeError
from chiasm.nn.attention import MLP
from chiasm.nn.decoder import Decoder, DecoderBlock, DecoderConfig, GroupedAttention

_OFFSET = 2  # the first two rows of its positions belong to no place: a heritage of fairseq's padding


@dataclass(frozen=True)
class Config(DecoderConfig):
    """hidden: the MLP's width. tied: the head is the token embeddings."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    context: int = 2048
    epsilon: float = 1e-5
    tied: bool = True

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise RecipeError(f"an OPT of width {self.width} cannot be split into {self.heads} heads of equal width")

    def build(self) -> Decoder:
        blocks = [
            DecoderBlock(
                GroupedAttention(
                    self.width, self.heads, self.heads, self.width // self.heads, rotary=None, bias=True, out_bias=True
                ),
                MLP(self.width, self.mlp_width, "relu"),
                nn.LayerNorm(self.width, self.epsilon),
                nn.LayerNorm(self.width, self.epsilon),
            )
            for _ in range(self.layers)
        ]
        decoder = Decoder(
            nn.Embedding(self.vocabulary, self.width),
            blocks,
            nn.LayerNorm(self.width, self.epsilon),
            context=self.context,
            rotary=None,
            position=Positions(self.context, self.width),
            head=None if self.tied else nn.Linear(self.width, self.vocabulary, bias=False),
        )
        for module in decoder.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        return decoder


class Positions(nn.Embedding):
    """Learned positions, the first place's being the third row."""

    def __init__(self, context: int, width: int) -> None:
        super().__init__(context + _OFFSET, width)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        return super().forward(input + _OFFSET)


# Table 1 of the paper.
SIZES = {
    "125m": Config(50_272, 768, 12, 12, 3072),
    "1.3b": Config(50_272, 2048, 24, 32, 8192),
    "2.7b": Config(50_272, 2560, 32, 32, 10_240),
    "6.7b": Config(50_272, 4096, 32, 32, 16_384),
    "13b": Config(50_272, 5120, 40, 40, 20_480),
    "30b": Config(50_272, 7168, 48, 56, 28_672),
    "66b": Config(50_272, 9216, 64, 72, 36_864),
    # For tests and laptops.
    "small": Config(512, 128, 4, 4, 512, context=512),
}
