"""The text transformers of CLIP (causal, read at the end token) and SigLIP (bidirectional, read at the last one)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.data.batch import Tokens
from chiasm.errors import DataError
from chiasm.nn.attention import Activation, Block, init_transformer, run_blocks
from chiasm.nn.tower import TextTower, TextTowerConfig


@dataclass(frozen=True)
class Config(TextTowerConfig):
    """context: longest text in tokens. hidden: width of the MLP.

    causal: each token sees those before it, and the text is read at its end mark (CLIP); otherwise all places see all,
        padding included, and the text is read at the last place of the context (SigLIP).
    """

    vocabulary: int
    context: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    causal: bool = True
    act: Activation = "quick_gelu"
    epsilon: float = 1e-5

    def build(self) -> TextTransformer:
        return TextTransformer(self)


class TextTransformer(TextTower):
    """Token and position embeddings, transformer blocks, and one vector for the text."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.vocabulary, self.context = config.vocabulary, config.context
        self.embed = nn.Embedding(config.vocabulary, config.width)
        self.position = nn.Parameter(torch.empty(config.context, config.width))
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_width, config.act, config.epsilon)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width, config.epsilon)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.position, std=0.01)
        init_transformer(self.blocks, config.width)

    def forward(self, texts: Tokens) -> Tensor:
        # Only what the last block leaves where the text is read is computed there.
        if not self.config.causal:
            return self.norm(run_blocks(self.blocks, self._embedded(texts), asked=lambda x: x[:, -1:])[:, 0])
        # What comes after the end token is never seen. On a CPU texts are packed, so that nothing is computed on
        # padding; a GPU is better off with one large piece.
        packs = texts.ids_BT.device.type == "cpu" and len(texts) > 0
        return self.norm(self._packed_ends(texts) if packs else self._ends(texts))

    def tokens(self, texts: Tokens) -> Tensor:
        return self.norm(run_blocks(self.blocks, self._embedded(texts), self.config.causal))

    def _ends(self, texts: Tokens) -> Tensor:
        """What the blocks leave at the end marks, (B, D)."""
        rows, ends = torch.arange(len(texts), device=texts.ids_BT.device), texts.lengths_B - 1
        x_BTD, seen = self._embedded(texts), texts.mask_BT[:, None, None]
        return run_blocks(self.blocks, x_BTD, True, asked=lambda x: x[rows, ends][:, None], mask=seen)[:, 0]

    def _packed_ends(self, texts: Tokens) -> Tensor:
        """The same, of texts packed one after another without padding, those of one length in a row."""
        order_B = texts.lengths_B.argsort(stable=True)
        lengths_B, kept_BT = texts.lengths_B[order_B], texts.mask_BT[order_B]
        self._check(int(lengths_B[-1]))
        place_BT = torch.arange(kept_BT.shape[1]).expand_as(kept_BT)
        x_SD = self.embed(texts.ids_BT[order_B][kept_BT]) + F.embedding(place_BT[kept_BT], self.position)
        lengths, counts = torch.unique_consecutive(lengths_B, return_counts=True)
        runs, ends = list(zip(counts.tolist(), lengths.tolist(), strict=True)), lengths_B.cumsum(0) - 1
        return run_blocks(self.blocks, x_SD, True, runs, asked=lambda x: x[ends])[order_B.argsort()]

    def _embedded(self, texts: Tokens) -> Tensor:
        length = texts.ids_BT.shape[1]
        self._check(length)
        if not self.config.causal and length != self.config.context:
            raise DataError(
                f"this model reads texts padded to its context of {self.config.context}, but was given {length} "
                "tokens; set text.padding: context"
            )
        return self.embed(texts.ids_BT) + self.position[:length]

    def _check(self, length: int) -> None:
        if length > self.config.context:
            raise DataError(f"a text of {length} tokens is longer than this model's context of {self.config.context}")
