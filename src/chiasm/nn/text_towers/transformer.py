"""The text transformers of CLIP (causal, read at the end mark) and SigLIP (bidirectional, read at the last place)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from chiasm.data.batch import Tokens
from chiasm.errors import DataError
from chiasm.nn.attention import Activation, Block, init_transformer
from chiasm.nn.tower import TextTower, TextTowerConfig

_TOGETHER = 32  # texts of like length that are encoded at once on a CPU


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
    hidden: int
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
            Block(config.width, config.heads, config.hidden, config.act, config.epsilon) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width, config.epsilon)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.position, std=0.01)
        init_transformer(self.blocks, config.width)

    def forward(self, texts: Tokens) -> Tensor:
        if not self.config.causal:
            return self.norm(self._blocks(texts)[:, -1])
        # What stands behind the end mark is never seen, so texts of like length go together and little is computed
        # on padding. A GPU is better off with one large piece.
        pieces = 1 if texts.ids_BT.is_cuda else -(-len(texts) // _TOGETHER)
        order_B = texts.lengths_B.argsort()
        ends = [self._ends(texts, rows) for rows in order_B.tensor_split(max(1, pieces))]
        return self.norm(torch.cat(ends)[order_B.argsort()])

    def _ends(self, texts: Tokens, rows: Tensor) -> Tensor:
        """What stands at the end marks of these rows, which are cut to the longest of them."""
        lengths = texts.lengths_B[rows]
        longest = int(lengths.max()) if len(rows) else 0
        cut = Tokens(texts.ids_BT[rows, :longest], lengths, texts.target_BT[rows, :longest])
        x_BTD = self._blocks(cut)
        return x_BTD[torch.arange(len(rows), device=rows.device), lengths - 1]

    def tokens(self, texts: Tokens) -> Tensor:
        return self.norm(self._blocks(texts))

    def _blocks(self, texts: Tokens) -> Tensor:
        length = texts.ids_BT.shape[1]
        if length > self.config.context:
            raise DataError(f"a text of {length} tokens is longer than this model's context of {self.config.context}")
        if not self.config.causal and length != self.config.context:
            raise DataError(
                f"this model reads texts padded to its context of {self.config.context}, but was given {length} "
                "tokens; set text.padding: context"
            )
        x_BTD = self.embed(texts.ids_BT) + self.position[:length]
        for block in self.blocks:
            x_BTD = block(x_BTD, causal=self.config.causal)
        return x_BTD
