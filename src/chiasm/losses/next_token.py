"""Next-token cross-entropy over a large vocabulary, without holding a score for every token and word at once.

Shapes: T tokens that are followed by a target, D width, V vocabulary."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor


def next_token(h_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, chunk: int = 1024) -> Tensor:
    """Mean of -log softmax(h W^T)[target] over T tokens; T x V scores are held for `chunk` tokens at a time.

    Gradients are computed in the forward pass, chunk by chunk, while the scores are there (as in Wijmans et al. 2024,
    "Cut your losses", arXiv:2411.09009, the scores are never stored). Scores are taken in float32.
    """
    if not torch.is_grad_enabled() or not (h_TD.requires_grad or weight_VD.requires_grad):
        total = sum(
            (
                F.cross_entropy(_scores(h, weight_VD), targets, reduction="sum")
                for h, targets in _chunks(h_TD, targets_T, chunk)
            ),
            start=h_TD.new_zeros((), dtype=torch.float32),
        )
        return total / len(targets_T)
    return cast("Tensor", _NextToken.apply(h_TD, weight_VD, targets_T, chunk))  # type: ignore[no-untyped-call]  # torch types it not


class _NextToken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, chunk: int) -> Tensor:
        count = len(targets_T)
        grad_h = torch.empty_like(h_TD)
        grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if weight_VD.requires_grad else None
        total = h_TD.new_zeros((), dtype=torch.float32)
        at = 0
        for h_CD, targets_C in _chunks(h_TD, targets_T, chunk):
            scores_CV = _scores(h_CD, weight_VD)
            norms_C = scores_CV.logsumexp(-1)
            total += (norms_C - scores_CV.gather(1, targets_C[:, None])[:, 0]).sum()
            slopes_CV = scores_CV.sub_(norms_C[:, None]).exp_()  # softmax - one-hot: the gradient by the scores
            slopes_CV[torch.arange(len(targets_C), device=slopes_CV.device), targets_C] -= 1
            slopes_CV = slopes_CV.div_(count).to(h_TD.dtype)
            torch.mm(slopes_CV, weight_VD.to(h_TD.dtype), out=grad_h[at : at + len(h_CD)])
            if grad_weight is not None:
                grad_weight += slopes_CV.T @ h_CD
            at += len(h_CD)
        ctx.save_for_backward(grad_h)
        ctx.grad_weight, ctx.dtype = grad_weight, weight_VD.dtype  # given away in the backward pass, not copied
        return total / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        scale, (grad_h,) = grads[0], ctx.saved_tensors
        by_weight, ctx.grad_weight = ctx.grad_weight, None
        if by_weight is not None:
            by_weight = by_weight.mul_(scale).to(ctx.dtype)
        elif ctx.needs_input_grad[1]:
            raise RuntimeError("next_token goes backward once; compute it anew for another pass")
        return grad_h * scale.to(grad_h.dtype), by_weight, None, None


def _chunks(h_TD: Tensor, targets_T: Tensor, chunk: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(torch.split(h_TD, chunk), torch.split(targets_T, chunk), strict=True))


def _scores(h_CD: Tensor, weight_VD: Tensor) -> Tensor:
    return F.linear(h_CD, weight_VD.to(h_CD.dtype)).float()
