"""The Q-Former of BLIP-2 (Li et al. 2023, arXiv:2301.12597): learned queries read a picture through a small BERT.

Queries attend to each other in every layer, and to the picture in every second one. A text may go through the same
self-attention, with a feed-forward of its own: alone, beside the queries, or after them. What sees what:

    together:  queries and words see all of both                       (does the text match?)
    told:      queries see queries; a word sees queries, itself and the words before it   (what would one say?)

Differs from the paper's code: no dropout, as elsewhere here.

Shapes: N pictures, P features of F numbers, K queries, T words, D width, V vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.errors import DataError, RecipeError
from chiasm.nn.attention import MLP, Attention
from chiasm.nn.bert import init_weights
from chiasm.nn.connector import ConnectorConfig
from chiasm.nn.recompute import Recomputable, recomputed


@dataclass(frozen=True)
class Words:
    """The text that a Q-Former reads in its first stage. vocabulary: V. context: the most words of a text."""

    vocabulary: int = 30_523
    context: int = 512


@dataclass(frozen=True)
class Config(ConnectorConfig):
    """queries: K. width: D. hidden: the feed-forward's. every: of so many layers the first attends to the picture.

    The defaults are BERT-base's, as published. As a connector it has no words.
    """

    queries: int = 32
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    every: int = 2
    epsilon: float = 1e-12

    def __post_init__(self) -> None:
        if self.queries < 1 or self.every < 1:
            raise RecipeError(f"a Q-Former of {self.queries} queries cannot see in every {self.every}th layer")

    def build(self, features: int, width: int) -> nn.Module:
        return Connector(features, width, self)

    def image_tokens(self, patches: int) -> int:  # noqa: ARG002  # as many for any picture
        return self.queries


class Connector(nn.Module):
    """What the queries find, mapped one by one: (N, P, F) to (N, K, width of the language model)."""

    def __init__(self, features: int, width: int, config: Config) -> None:
        super().__init__()
        self.q_former = QFormer(features, config)
        self.map = nn.Linear(config.width, width)

    def forward(self, features_NPF: Tensor) -> Tensor:
        return self.map(self.q_former(features_NPF))


class QFormer(nn.Module):
    """features: F, of what the queries read. words: of the text that it reads too; None where it reads none."""

    def __init__(self, features: int, config: Config, words: Words | None = None) -> None:
        super().__init__()
        self.config = config
        self.queries = nn.Parameter(torch.empty(config.queries, config.width))
        self.words = nn.Embedding(words.vocabulary, config.width) if words else None
        self.positions = nn.Embedding(words.context, config.width) if words else None
        self.norm = nn.LayerNorm(config.width, config.epsilon)
        self.layers = nn.ModuleList(
            Layer(config, features if at % config.every == 0 else None, words is not None)
            for at in range(config.layers)
        )
        self.apply(init_weights)
        nn.init.normal_(self.queries, std=0.02)

    def forward(self, features_NPF: Tensor) -> Tensor:
        """What the queries find in pictures alone, (N, K, D)."""
        x_NKD = self.norm(self.queries.expand(len(features_NPF), -1, -1))
        for layer in self.layers:
            x_NKD = layer(x_NKD, self.config.queries, features_NPF, None)
        return x_NKD

    def text(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """What it makes of texts alone, read in both directions, (B, T, D). mask_BT: False on padding."""
        x_BTD = self.norm(self._embedded(ids_BT))
        for layer in self.layers:
            x_BTD = layer(x_BTD, 0, None, mask_BT[:, None, None])
        return x_BTD

    def together(self, features_NPF: Tensor, ids_NT: Tensor, mask_NT: Tensor) -> Tensor:
        """What the queries find in pictures beside a text, which both see all of, (N, K, D)."""
        mask = F.pad(mask_NT, (self.config.queries, 0), value=True)[:, None, None]
        return self._beside(features_NPF, ids_NT, mask)[:, : self.config.queries]

    def told(self, features_NPF: Tensor, ids_NT: Tensor, mask_NT: Tensor) -> Tensor:
        """What it makes of each word by the picture and the words up to it, (N, T, D)."""
        queries, words = self.config.queries, ids_NT.shape[1]
        position = torch.arange(queries + words, device=ids_NT.device)
        seen = (position <= position[:, None]) | (position < queries)  # the last query sees all queries, but no word
        mask = seen & F.pad(mask_NT, (queries, 0), value=True)[:, None, None]
        return self._beside(features_NPF, ids_NT, mask)[:, queries:]

    def _beside(self, features_NPF: Tensor, ids_NT: Tensor, mask: Tensor) -> Tensor:
        queries_NKD = self.queries.expand(len(ids_NT), -1, -1)
        x_NSD = self.norm(torch.cat([queries_NKD, self._embedded(ids_NT)], dim=1))
        for layer in self.layers:
            x_NSD = layer(x_NSD, self.config.queries, features_NPF, mask)
        return x_NSD

    def _embedded(self, ids_BT: Tensor) -> Tensor:
        assert self.words is not None
        assert self.positions is not None
        if ids_BT.shape[1] > self.positions.num_embeddings:
            raise DataError(
                f"a text of {ids_BT.shape[1]} tokens exceeds this Q-Former's context of {self.positions.num_embeddings}"
            )
        return self.words(ids_BT) + self.positions.weight[: ids_BT.shape[1]]


class Layer(Recomputable):
    """A layer of BERT whose first K places are queries: these may attend to a picture, and have their own feed-forward.

    features: F; None for a layer without cross-attention. words: whether it has a feed-forward for words.
    """

    def __init__(self, config: Config, features: int | None, words: bool) -> None:
        super().__init__()
        width, epsilon = config.width, config.epsilon
        self.attention, self.attention_norm = Attention(width, config.heads), nn.LayerNorm(width, epsilon)
        self.cross_attention = Attention(width, config.heads, features) if features is not None else None
        self.cross_norm = nn.LayerNorm(width, epsilon) if features is not None else None
        self.mlp, self.mlp_norm = MLP(width, config.mlp_width, "gelu"), nn.LayerNorm(width, epsilon)
        self.word_mlp = MLP(width, config.mlp_width, "gelu") if words else None
        self.word_mlp_norm = nn.LayerNorm(width, epsilon) if words else None

    @recomputed
    def forward(self, x_NSD: Tensor, queries: int, features_NPF: Tensor | None, mask: Tensor | None) -> Tensor:
        """queries: how many of the S places are, before the words. mask: who sees whom; see Attention."""
        x_NSD = self.attention_norm(x_NSD + self.attention(x_NSD, mask=mask))
        of_queries, of_words = x_NSD[:, :queries], x_NSD[:, queries:]
        found = []
        if queries:
            if self.cross_attention is not None and self.cross_norm is not None:
                of_queries = self.cross_norm(of_queries + self.cross_attention(of_queries, features_NPF))
            found.append(self.mlp_norm(of_queries + self.mlp(of_queries)))
        if of_words.shape[1] and self.word_mlp is not None and self.word_mlp_norm is not None:
            found.append(self.word_mlp_norm(of_words + self.word_mlp(of_words)))
        return torch.cat(found, dim=1)
