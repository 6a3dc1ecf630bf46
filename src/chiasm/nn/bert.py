"""BERT: a bidirectional text encoder (Devlin et al. 2018, arXiv:1810.04805), and the blocks that its descendants share.

Post-layer-norm, learned positions, token types, exact GELU. Differs from the paper: no dropout, and no pooler, which
only serves next-sentence prediction.

Shapes: B batch, T tokens, D width, H heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from chiasm.errors import DataError, RecipeError
from chiasm.nn.attention import MLP, Attention
from chiasm.nn.recompute import Recomputable, recomputed


@dataclass(frozen=True)
class Config:
    """Dimensions of a BERT encoder.

    vocabulary: V. width: D. hidden: the MLP's width. context: the most tokens of a text.
    types: how many token types there are, 0 for descendants that have none. epsilon: of the layer norms.
    """

    renamed: ClassVar[Mapping[str, str]] = {"hidden": "mlp_width"}

    vocabulary: int = 30_522
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    context: int = 512
    types: int = 2
    epsilon: float = 1e-12

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise RecipeError(f"a BERT of width {self.width} cannot be split into {self.heads} heads of equal width")

    def build(self) -> Bert:
        return Bert(self)


SIZES = {
    "base": Config(),
    "large": Config(width=1024, layers=24, heads=16, mlp_width=4096),
    "minilm-l6": Config(width=384, layers=6, mlp_width=1536),  # Wang et al. 2020, arXiv:2002.10957, every second layer
}


class Layer(Recomputable):
    """A post-norm transformer block: norm(x + attention(x)), then norm(x + mlp(x))."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = Attention(config.width, config.heads)
        self.attention_norm = nn.LayerNorm(config.width, config.epsilon)
        self.mlp = MLP(config.width, config.mlp_width, "gelu")
        self.mlp_norm = nn.LayerNorm(config.width, config.epsilon)

    @recomputed
    def forward(self, x_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: True where attention is allowed, broadcastable to (B, H, T, T)."""
        x_BTD = self.attention_norm(x_BTD + self.attention(x_BTD, mask=mask))
        return self.mlp_norm(x_BTD + self.mlp(x_BTD))


class Bert(nn.Module):
    """Token ids to contextual vectors: (B, T) -> (B, T, D).

    A single-stream descendant calls `embed`, joins its own embeddings to the result, and calls `encode`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.types = nn.Embedding(config.types, config.width) if config.types else None
        self.norm = nn.LayerNorm(config.width, eps=config.epsilon)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.apply(init_weights)

    def forward(self, ids_BT: Tensor, mask_BT: Tensor | None = None, types_BT: Tensor | None = None) -> Tensor:
        """The last layer's vectors (B, T, D).

        mask_BT: True where a token is not padding; without it every token counts. Vectors of padding are computed but
        mean nothing. types_BT: token types, by default 0 throughout.
        Raises DataError where T exceeds the context.
        """
        return self.encode(self.embed(ids_BT, types_BT), mask_BT)

    def embed(self, ids_BT: Tensor, types_BT: Tensor | None = None) -> Tensor:
        """Word, position and type embeddings summed, (B, T, D), before the layer norm that `encode` starts with."""
        tokens = ids_BT.shape[1]
        if tokens > self.config.context:
            raise DataError(
                f"a text of {tokens} tokens exceeds this encoder's context of {self.config.context}; "
                "cut texts in the tokenizer"
            )
        embedded_BTD = self.words(ids_BT) + self.positions.weight[:tokens]
        if self.types is None:
            return embedded_BTD
        return embedded_BTD + (self.types.weight[0] if types_BT is None else self.types(types_BT))

    def encode(self, embedded_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Summed embeddings through all layers, (B, T, D)."""
        keys = None if mask_BT is None else mask_BT[:, None, None, :]
        x_BTD = self.norm(embedded_BTD)
        for layer in self.layers:
            x_BTD = layer(x_BTD, keys)
        return x_BTD


def init_weights(module: nn.Module) -> None:
    """BERT's initialisation: normal of deviation 0.02, biases zero."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def mean_over_tokens(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """The mean of each text's vectors, padding left out: (B, D). A text without tokens gives zeros."""
    kept_BT1 = mask_BT.unsqueeze(2).to(hidden_BTD.dtype)
    # A product would let a NaN of padding through; a selection does not.
    total_BD = torch.where(mask_BT.unsqueeze(2), hidden_BTD, 0).sum(dim=1)
    return total_BD / kept_BT1.sum(dim=1).clamp(min=1)


def transformers_name(name: str) -> str:
    """The name of one of our tensors in `transformers.BertModel`; its pooler has no counterpart here."""
    module, leaf = name.rsplit(".", 1)
    if module.startswith("layers."):
        _, index, part = module.split(".", 2)
        return f"encoder.layer.{index}.{_LAYER[part]}.{leaf}"
    return f"embeddings.{_EMBEDDINGS[module]}.{leaf}"


_EMBEDDINGS = {
    "words": "word_embeddings",
    "positions": "position_embeddings",
    "types": "token_type_embeddings",
    "norm": "LayerNorm",
}
_LAYER = {
    "attention.q": "attention.self.query",
    "attention.k": "attention.self.key",
    "attention.v": "attention.self.value",
    "attention.out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp.up": "intermediate.dense",
    "mlp.down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
