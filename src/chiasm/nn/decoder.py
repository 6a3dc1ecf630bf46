"""One decoder for all language models: blocks over packed sequences.

Sequences follow one another in one stream without padding; linear layers, norms and MLPs run on all tokens at
once. Only attention has to know where a sequence begins and what came before it: an `AttentionBackend` says so. In
training it is `Packed`; in generation a key-value cache takes its place.

Shapes: T tokens of all sequences, D width, H heads, G groups of heads that share keys and values, E width of a head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.config import Component
from chiasm.errors import RecipeError
from chiasm.nn.attention_mask import attention_mask
from chiasm.nn.linear import Linear, linear
from chiasm.nn.packed_attention import PackedSequences
from chiasm.nn.recompute import Recomputable, recomputed
from chiasm.nn.rotary import Rotary, turn
from chiasm.nn.visible_images import VisibleImages


class AttentionBackend(Protocol):
    """Who sees whom."""

    def __call__(self, layer: int, q_THE: Tensor, k_TGE: Tensor, v_TGE: Tensor, window: int | None, /) -> Tensor:
        """softmax(q k^T / sqrt(E)) v of every token over what it may see, (T, H, E).

        layer: which keys and values these are. window: sees only so many tokens back, itself included.
        """

    @property
    def visible(self) -> VisibleImages | None:
        """What the tokens see beside each other, for blocks that look at it; None for nothing."""


class Packed:
    """Sequences of a packed stream, none of which attends to another.

    lengths: of the sequences. blocks_T: within which blocks of a sequence attention goes both ways, see
    `nn/attention_mask.py`; all attention is causal where None.
    """

    def __init__(
        self, lengths: Sequence[int], visible: VisibleImages | None = None, blocks_T: Tensor | None = None
    ) -> None:
        self.lengths, self.visible = list(lengths), visible
        self._sequences = PackedSequences(self.lengths)
        self.blocks = torch.split(blocks_T, self.lengths) if blocks_T is not None else None

    def __call__(self, _layer: int, q_THE: Tensor, k_TGE: Tensor, v_TGE: Tensor, window: int | None) -> Tensor:
        if self.blocks is None:
            return self._sequences.attention(q_THE, k_TGE, v_TGE, causal=True, window=window)
        sequences = zip(*(torch.split(x, self.lengths) for x in (q_THE, k_TGE, v_TGE)), self.blocks, strict=True)
        mixed = [
            attention(q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), window, blocks).transpose(0, 1)
            for q, k, v, blocks in sequences
        ]
        return torch.cat(mixed)


def attention(
    q_HTE: Tensor, k_GSE: Tensor, v_GSE: Tensor, window: int | None = None, blocks_S: Tensor | None = None
) -> Tensor:
    """softmax(q k^T / sqrt(E)) v of the last T of S tokens over those that they may see, (H, T, E); H is a multiple of
    G. window, blocks_S: as in `attention_mask`."""
    queries, keys = q_HTE.shape[1], k_GSE.shape[1]
    mask = attention_mask(queries, keys, q_HTE.device, window, blocks_S)
    # A leading dimension of one: some kernels know only batches.
    mixed = F.scaled_dot_product_attention(
        q_HTE[None],
        k_GSE[None],
        v_GSE[None],
        attn_mask=mask,
        is_causal=mask is None and queries > 1,
        enable_gqa=len(q_HTE) != len(k_GSE),
    )
    return mixed[0]


class GroupedAttention(nn.Module):
    """Self-attention whose H query heads share G heads of keys and values (Ainslie et al. 2023, arXiv:2305.13245).

    rotary: turns queries and keys; None where positions are added to the input.
    bias: of queries, keys and values; out_bias: of the output.
    qk_norm: epsilon of an RMS norm of each head's queries and keys (Qwen3); None for none.
    inner_norm: epsilon of a layer norm of what the heads make, before the output's map (MAGNETO); None for none.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        head_width: int,
        *,
        rotary: Rotary | None,
        bias: bool = False,
        out_bias: bool = False,
        qk_norm: float | None = None,
        window: int | None = None,
        inner_norm: float | None = None,
    ) -> None:
        super().__init__()
        if kv_heads < 1 or heads % kv_heads:
            raise RecipeError(f"{heads} heads cannot share {kv_heads} groups of keys and values")
        self.head_width, self.rotary, self.window = head_width, rotary, window
        self.q = Linear(width, heads * head_width, bias=bias)
        self.k = Linear(width, kv_heads * head_width, bias=bias)
        self.v = Linear(width, kv_heads * head_width, bias=bias)
        self.out = Linear(heads * head_width, width, bias=out_bias)
        self.q_norm = nn.RMSNorm(head_width, qk_norm) if qk_norm is not None else nn.Identity()
        self.k_norm = nn.RMSNorm(head_width, qk_norm) if qk_norm is not None else nn.Identity()
        self.inner_norm = nn.LayerNorm(heads * head_width, inner_norm) if inner_norm is not None else nn.Identity()

    def forward(
        self, x_TD: Tensor, turns: tuple[Tensor, Tensor] | None, layer: int, backend: AttentionBackend
    ) -> Tensor:
        q, k, v = (linear(x_TD).unflatten(-1, (-1, self.head_width)) for linear in (self.q, self.k, self.v))
        q, k = self.q_norm(q), self.k_norm(k)
        if turns is not None:
            q, k = turn(q, turns), turn(k, turns)
        return self.out(self.inner_norm(backend(layer, q, k, v, self.window).flatten(1)))


class GatedMLP(nn.Module):
    """down(silu(gate x) * up x) (Shazeer 2020, arXiv:2002.05202). out: the last width; the first where None."""

    def __init__(self, width: int, mlp_width: int, out: int | None = None) -> None:
        super().__init__()
        self.gate, self.up = Linear(width, mlp_width, bias=False), Linear(width, mlp_width, bias=False)
        self.down = Linear(mlp_width, width if out is None else out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class DecoderBlock(Recomputable):
    """x + attention(norm(x)), then x + mlp(norm(x)); parts are built and handed in."""

    def __init__(self, attention: GroupedAttention, mlp: nn.Module, norm1: nn.Module, norm2: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2, self.mlp = norm1, attention, norm2, mlp

    @recomputed
    def forward(
        self, x_TD: Tensor, turns: tuple[Tensor, Tensor] | None, layer: int, backend: AttentionBackend
    ) -> Tensor:
        x_TD = x_TD + self.attention(self.norm1(x_TD), turns, layer, backend)
        return x_TD + self.mlp(self.norm2(x_TD))


class Decoder(nn.Module):
    """Token embeddings, blocks, a final norm, and a head that may be the embeddings themselves.

    width: D. vocabulary: V. context: the most tokens of a sequence that it was made for.
    rotary: of its blocks; None where `position`, learned embeddings, is added to the input.
    """

    def __init__(
        self,
        embed: nn.Embedding,
        blocks: Sequence[DecoderBlock],
        norm: nn.Module,
        *,
        context: int,
        rotary: Rotary | None,
        position: nn.Embedding | None = None,
        head: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.vocabulary, self.width, self.context, self.rotary = (
            embed.num_embeddings,
            embed.embedding_dim,
            context,
            rotary,
        )
        self.embed, self.position, self.blocks, self.norm, self.head = (
            embed,
            position,
            nn.ModuleList(blocks),
            norm,
            head,
        )

    @property
    def cached(self) -> tuple[int, int, int]:
        """(layers, G, E): the shape of the keys that a token leaves in a cache."""
        first = self.blocks[0].attention
        assert isinstance(first, GroupedAttention)
        return len(self.blocks), first.k.out_features // first.head_width, first.head_width

    def forward(self, x_TD: Tensor, positions: Tensor, backend: AttentionBackend) -> Tensor:
        """What the blocks make of embedded tokens, normalised, (T, D).

        positions: (T,) of each token in its sequence from 0 on, or (3, T) for three axes.
        """
        turns = self.rotary.turns(positions) if self.rotary is not None else None
        if self.position is not None:
            x_TD = x_TD + self.position(positions)
        for layer in range(len(self.blocks)):
            x_TD = self.step(layer, x_TD, turns, backend)
        return self.norm(x_TD)

    def step(self, layer: int, x_TD: Tensor, turns: tuple[Tensor, Tensor] | None, backend: AttentionBackend) -> Tensor:
        """One block, and what belongs to it."""
        return self.blocks[layer](x_TD, turns, layer, backend)

    @property
    def head_weight(self) -> Tensor:
        """(V, D); the embeddings where they are tied."""
        return self.head.weight if self.head is not None else self.embed.weight

    def logits(self, x_TD: Tensor) -> Tensor:
        """(T, V) scores of the next token. Ask only for the tokens that matter: V is large."""
        return linear(x_TD, self.head_weight)


class DecoderConfig(Component, ABC, package="chiasm.nn.decoders", key="decoder"):
    """A recipe's choice of a language model. context: the most tokens of a sequence that it reads."""

    renamed: ClassVar[Mapping[str, str]] = {"hidden": "mlp_width", "groups": "kv_heads"}

    context: int

    @abstractmethod
    def build(self) -> Decoder: ...


def positions_of(lengths: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """(T,): 0, 1, 2, ... anew in each sequence."""
    return torch.cat([torch.arange(length, device=device) for length in lengths] or [torch.empty(0, dtype=torch.long)])
