"""Multi-head attention and the pre-norm transformer block (Vaswani et al. 2017, arXiv:1706.03762).

Shapes: B batch, T queries, S keys, H heads, D width."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.errors import RecipeError

Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the activation that OpenAI's CLIP was trained with. Not interchangeable with GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def activation(name: Activation) -> nn.Module:
    """The activation of that name; "gelu" is exact, "gelu_tanh" its tanh approximation."""
    match name:
        case "gelu":
            return nn.GELU()
        case "gelu_tanh":
            return nn.GELU(approximate="tanh")
        case "quick_gelu":
            return QuickGELU()


class Attention(nn.Module):
    """softmax(q k^T / sqrt(D/H)) v over H heads; self-attention where no context is given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise RecipeError(f"a width of {width} cannot be split into {heads} heads")
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x_BTD: Tensor,
        context_BSD: Tensor | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """mask: True where attention is allowed, broadcastable to (B, H, T, S). causal: none to later positions."""
        context_BSD = x_BTD if context_BSD is None else context_BSD
        q, k, v = self._split(self.q(x_BTD)), self._split(self.k(context_BSD)), self._split(self.v(context_BSD))
        mixed_BHTE = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return self.out(mixed_BHTE.transpose(1, 2).flatten(2))

    def _split(self, x_BTD: Tensor) -> Tensor:
        batch, length, _ = x_BTD.shape
        return x_BTD.view(batch, length, self.heads, -1).transpose(1, 2)


class MLP(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, width: int, hidden: int, act: Activation) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(width, hidden), activation(act), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


class Block(nn.Module):
    """A pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, hidden: int, act: Activation, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, epsilon), nn.LayerNorm(width, epsilon)
        self.attention, self.mlp = Attention(width, heads), MLP(width, hidden, act)

    def forward(self, x_BTD: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        x_BTD = x_BTD + self.attention(self.norm1(x_BTD), mask=mask, causal=causal)
        return x_BTD + self.mlp(self.norm2(x_BTD))


def init_transformer(blocks: nn.ModuleList, width: int) -> None:
    """CLIP's initialisation (its code, model.py): residual branches scaled down by depth, so that x keeps its size."""
    depth = max(1, len(blocks))
    attention_std, residual_std = width**-0.5, (width**-0.5) * ((2 * depth) ** -0.5)
    for module in blocks.modules():
        if isinstance(module, Attention):
            for linear in (module.q, module.k, module.v):
                nn.init.normal_(linear.weight, std=attention_std)
                nn.init.zeros_(linear.bias)
            nn.init.normal_(module.out.weight, std=residual_std)
            nn.init.zeros_(module.out.bias)
        elif isinstance(module, MLP):
            nn.init.normal_(module.up.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(module.down.weight, std=residual_std)
            nn.init.zeros_(module.up.bias)
            nn.init.zeros_(module.down.bias)
