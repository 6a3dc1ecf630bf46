"""Multi-head attention and the pre-norm transformer block (Vaswani et al. 2017, arXiv:1706.03762).

Shapes: B batch, T queries, S keys, H heads, D width; E = D / H."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from chiasm.errors import RecipeError
from chiasm.nn.recompute import Recomputable, recomputed

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu"]
Runs = Sequence[tuple[int, int]]  # of packed sequences: how many of which length come one after another


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the activation that OpenAI's CLIP was trained with. Not interchangeable with GELU."""

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = _QuickGELU.apply(x)  # type: ignore[no-untyped-call]  # torch's
        return activated


class _QuickGELU(torch.autograd.Function):
    """As silu(1.702 x) / 1.702: of that, one tensor is kept and the backward pass reads it once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        steep = 1.702 * x
        ctx.save_for_backward(steep)
        return F.silu(steep).div_(1.702)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (steep,) = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradients[0], steep)


def activation(name: Activation) -> nn.Module:
    """The activation of that name; "gelu" is exact, "gelu_tanh" its tanh approximation."""
    match name:
        case "gelu":
            return nn.GELU()
        case "gelu_tanh":
            return nn.GELU(approximate="tanh")
        case "quick_gelu":
            return QuickGELU()
        case "relu":
            return nn.ReLU()


class Attention(nn.Module):
    """softmax(q k^T / sqrt(D/H)) v over H heads; self-attention where no context is given.

    context: the width of the context, where it is not D.
    """

    def __init__(self, width: int, heads: int, context: int | None = None) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise RecipeError(f"a width of {width} cannot be split into {heads} heads")
        self.heads = heads
        of = width if context is None else context
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(of, width), nn.Linear(of, width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x_BTD: Tensor,
        context_BSD: Tensor | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        runs: Runs | None = None,
    ) -> Tensor:
        """mask: True where attention is allowed, broadcastable to (B, H, T, S). causal: none to later positions.

        runs: x is packed, all sequences one after another in (tokens, D), and each attends to itself alone; a context
        is then packed so, and x holds one query a sequence.
        """
        context_BSD = x_BTD if context_BSD is None else context_BSD
        q, k, v = self.q(x_BTD), self.k(context_BSD), self.v(context_BSD)
        if runs is None:
            return self.out(self._mix(q, k, v, mask, causal))
        queries = [(count, length if context_BSD is x_BTD else 1) for count, length in runs]
        parts = zip(_of_runs(q, queries), _of_runs(k, runs), _of_runs(v, runs), strict=True)
        return self.out(torch.cat([self._mix(*part, mask, causal).flatten(0, 1) for part in parts]))

    def _mix(self, q_BTD: Tensor, k_BSD: Tensor, v_BSD: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        head_width = q_BTD.shape[2] // self.heads
        q, k, v = (x.view(*x.shape[:2], self.heads, head_width).transpose(1, 2) for x in (q_BTD, k_BSD, v_BSD))
        mixed_BHTE = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return mixed_BHTE.transpose(1, 2).flatten(2)


def _of_runs(packed: Tensor, runs: Runs) -> list[Tensor]:
    """(tokens, D) as (count, length, D) for each run, without a copy."""
    pieces = torch.split(packed, [count * length for count, length in runs])
    return [piece.view(*run, packed.shape[1]) for piece, run in zip(pieces, runs, strict=True)]


class MLP(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, width: int, mlp_width: int, act: Activation) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(width, mlp_width), activation(act), nn.Linear(mlp_width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


class Block(Recomputable):
    """A pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, mlp_width: int, act: Activation, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, epsilon), nn.LayerNorm(width, epsilon)
        self.attention, self.mlp = Attention(width, heads), MLP(width, mlp_width, act)

    @recomputed
    def forward(
        self,
        x_BTD: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        runs: Runs | None = None,
        asked_BQD: Tensor | None = None,
    ) -> Tensor:
        """runs: as in Attention. asked_BQD: the vectors of the only places whose outcome is wanted, which is then what
        is returned; what the other places would become is not computed."""
        if asked_BQD is None:
            x_BTD = x_BTD + self.attention(self.norm1(x_BTD), None, mask, causal, runs)
        else:
            x_BTD = asked_BQD + self.attention(self.norm1(asked_BQD), self.norm1(x_BTD), mask, causal, runs)
        return x_BTD + self.mlp(self.norm2(x_BTD))


def run_blocks(
    blocks: nn.ModuleList,
    x_BTD: Tensor,
    causal: bool = False,
    runs: Runs | None = None,
    asked: Callable[[Tensor], Tensor] | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """x through all blocks.

    asked: picks the only places whose vectors are wanted of the last block, (B, Q, D); what the others would become
    there is read by nothing, and not computed. mask: what those places see.
    """
    last = len(blocks) - 1
    for at, block in enumerate(blocks):
        if asked is not None and at == last:
            return block(x_BTD, mask, runs=runs, asked_BQD=asked(x_BTD))
        x_BTD = block(x_BTD, causal=causal, runs=runs)
    return x_BTD if asked is None else asked(x_BTD)


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
