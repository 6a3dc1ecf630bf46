"""Gated cross-attention: how a language model that was trained on words alone learns to see without changing at first
(Flamingo, Alayrac et al. 2022, arXiv:2204.14198, section 2.2).

Before some blocks of a decoder, tokens look at encoder states (see `nn/visible_images.py`), and what they gain passes
through tanh of a gate that begins at 0. The decoder's own blocks stay as they are.

Shapes: T tokens, D width, S encoder states, H heads, G groups of heads that share keys, E width of a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from chiasm.errors import RecipeError
from chiasm.nn.decoder import AttentionBackend, Decoder, GatedMLP
from chiasm.nn.visible_images import KeysValues, VisibleImages


@dataclass(frozen=True)
class Config:
    """Gated cross-attention before every so many blocks, from the first on.

    heads: of the tokens; kv_heads: of keys and values, as many where None. head_width: E; width / heads where None.
    mlp_width: of the dense part. qk_norm: whether each head's queries and keys are normalised.
    gates: "one" number a gate, or one for "each" number of the width. gate: what they begin at; 0 leaves the language
        model as it is, but lets no gradient through to the pictures until it has moved.
    """

    renamed: ClassVar[Mapping[str, str]] = {"hidden": "mlp_width", "groups": "kv_heads"}

    heads: int
    mlp_width: int
    every: int = 4
    kv_heads: int | None = None
    head_width: int | None = None
    qk_norm: bool = True
    epsilon: float = 1e-6
    gates: Literal["one", "each"] = "one"
    gate: float = 0.0

    def __post_init__(self) -> None:
        if self.every < 1:
            raise RecipeError(f"cross-attention stands before every block or every few, not every {self.every}")

    def build(self, width: int, memory: int) -> GatedCross:
        """memory: the width of the encoder states."""
        head_width = self.head_width or width // self.heads
        attention = CrossAttention(
            width,
            memory,
            self.heads,
            self.heads if self.kv_heads is None else self.kv_heads,
            head_width,
            qk_norm=self.epsilon if self.qk_norm else None,
        )
        norms = nn.RMSNorm(width, self.epsilon), nn.RMSNorm(width, self.epsilon)
        made = GatedCross(attention, GatedMLP(width, self.mlp_width), *norms, (1 if self.gates == "one" else width))
        for module in made.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.constant_(made.gate1, self.gate)
        nn.init.constant_(made.gate2, self.gate)
        return made

    def around(self, decoder: Decoder, memory: int) -> LookingDecoder:
        """A built decoder with these blocks."""
        count = -(-len(decoder.blocks) // self.every)
        return LookingDecoder(decoder, [self.build(decoder.width, memory) for _ in range(count)], self.every)


class CrossAttention(nn.Module):
    """Tokens attend to the encoder states that they see; H heads share G groups of keys and values.

    qk_norm: epsilon of an RMS norm of each head's queries and keys; None for none.
    """

    def __init__(
        self, width: int, memory: int, heads: int, kv_heads: int, head_width: int, *, qk_norm: float | None = None
    ) -> None:
        super().__init__()
        if kv_heads < 1 or heads % kv_heads:
            raise RecipeError(f"{heads} heads cannot share {kv_heads} groups of keys and values")
        self.head_width = head_width
        self.q = nn.Linear(width, heads * head_width, bias=False)
        self.k = nn.Linear(memory, kv_heads * head_width, bias=False)
        self.v = nn.Linear(memory, kv_heads * head_width, bias=False)
        self.out = nn.Linear(heads * head_width, width, bias=False)
        self.q_norm = nn.RMSNorm(head_width, qk_norm) if qk_norm is not None else nn.Identity()
        self.k_norm = nn.RMSNorm(head_width, qk_norm) if qk_norm is not None else nn.Identity()

    def forward(self, x_TD: Tensor, layer: int, visible: VisibleImages) -> Tensor:
        """(T, D); zeros where a token sees nothing. layer: whose keys and values the encoder states keep."""
        q_THE = self.q_norm(self.q(x_TD).unflatten(-1, (-1, self.head_width)))
        keys, values = visible.memory.keys_values(layer, self._keys_values)
        return self.out(visible.look(q_THE, keys, values).flatten(1))

    def _keys_values(self, features_SD: Tensor) -> KeysValues:
        keys, values = (linear(features_SD).unflatten(-1, (-1, self.head_width)) for linear in (self.k, self.v))
        return self.k_norm(keys), values


class GatedCross(nn.Module):
    """x + tanh(gate) attention(norm(x), what it sees), then x + tanh(gate) mlp(norm(x)); parts are handed in.

    gates: numbers a gate, 1 or the width.
    """

    def __init__(
        self, attention: CrossAttention, mlp: nn.Module, norm1: nn.Module, norm2: nn.Module, gates: int
    ) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2, self.mlp = norm1, attention, norm2, mlp
        self.gate1, self.gate2 = nn.Parameter(torch.zeros(gates)), nn.Parameter(torch.zeros(gates))

    def forward(self, x_TD: Tensor, layer: int, visible: VisibleImages | None) -> Tensor:
        """visible: None where no token sees anything; the dense part acts on it all the same."""
        if visible is not None:
            x_TD = x_TD + self.gate1.tanh() * self.attention(self.norm1(x_TD), layer, visible)
        return x_TD + self.gate2.tanh() * self.mlp(self.norm2(x_TD))

    def expected_zero_grad(self) -> list[str]:
        """Names of the tensors after a gate that is closed: no gradient reaches them until it has moved."""
        gated = {"gate1": ("norm1", "attention"), "gate2": ("norm2", "mlp")}
        closed = [part for gate, parts in gated.items() if not getattr(self, gate).any() for part in parts]
        return [name for name, _ in self.named_parameters() if name.partition(".")[0] in closed]


class LookingDecoder(Decoder):
    """A decoder with such blocks before every so many of its own, which it was built with; `look` holds them."""

    def __init__(self, decoder: Decoder, look: Sequence[GatedCross], every: int) -> None:
        super().__init__(
            decoder.embed,
            [*decoder.blocks],
            decoder.norm,
            context=decoder.context,
            rotary=decoder.rotary,
            position=decoder.position,
            head=decoder.head,
        )
        self.look, self.every = nn.ModuleList(look), every

    def step(self, layer: int, x_TD: Tensor, turns: tuple[Tensor, Tensor] | None, backend: AttentionBackend) -> Tensor:
        if layer % self.every == 0:
            x_TD = self.look[layer // self.every](x_TD, layer, backend.visible)
        return super().step(layer, x_TD, turns, backend)
