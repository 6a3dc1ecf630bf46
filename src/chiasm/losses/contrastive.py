"""The symmetric contrastive loss, InfoNCE over the batch (Radford et al. 2021, arXiv:2103.00020, figure 3)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chiasm.losses.ring import CHUNK, Ring, Scratch, full, tiles

# Logits no larger than this may be raised to e as they are: neither they nor the sum of a billion leaves float32.
_SAFE = 60.0


def info_nce(image_ND: Tensor, text_ND: Tensor, scale: Tensor, chunk: int = CHUNK) -> Tensor:
    """Mean of two cross-entropies: which text belongs to each picture, and which picture to each text.

        logits = scale * image @ text.T;   loss = (CE(logits, i) + CE(logits.T, i)) / 2

    image_ND, text_ND: unit length, row i of one belongs to row i of the other. scale: 1 / temperature, a scalar.

    Up to `chunk` pairs the formula is computed as it stands. Beyond, only chunk x chunk logits are held at a time:
    memory O(N D + chunk^2), one block of logits for both directions, and the blocks computed again for the gradient.
    Where torch.distributed runs, the pairs of all processes count, and all must call this together; see
    `chiasm.losses.ring` for what each gets. Computed in float32, also under autocast.
    """
    with torch.autocast(image_ND.device.type, enabled=False):
        image_ND, text_ND, scale = full(image_ND), full(text_ND), full(scale)
        ring = Ring(len(image_ND), image_ND.device)
        if ring.size == 1 and ring.rows <= chunk:
            return plain_info_nce(image_ND, text_ND, scale)
        loss: Tensor = _InfoNCE.apply(image_ND, text_ND, scale, ring, chunk)  # type: ignore[no-untyped-call]  # torch's
        return loss


def plain_info_nce(image_ND: Tensor, text_ND: Tensor, scale: Tensor) -> Tensor:
    """The formula as it stands, for the pairs of one process; holds (N, N)."""
    logits_NN = scale * image_ND @ text_ND.T
    matching_N = torch.arange(len(logits_NN), device=logits_NN.device)
    return (F.cross_entropy(logits_NN, matching_N) + F.cross_entropy(logits_NN.T, matching_N)) / 2


class _InfoNCE(torch.autograd.Function):
    """Forward: the log-sum-exp of every row and column of logits, by blocks. Backward: both softmaxes from them."""

    @staticmethod
    def forward(ctx: Any, image_ND: Tensor, text_ND: Tensor, scale: Tensor, ring: Ring, chunk: int) -> Tensor:
        scaled_ND, scratch = scale * image_ND, Scratch(image_ND, chunk)
        row_N = image_ND.new_full((len(image_ND),), -torch.inf)

        def visit(text_MD: Tensor, column_M: Tensor) -> None:
            safe = _all_safe(scaled_ND, text_MD)
            for rows, columns in tiles(len(scaled_ND), len(text_MD), chunk):
                logits = scratch.product(scaled_ND[rows], text_MD[columns])
                for known, found in zip((row_N[rows], column_M[columns]), _log_sums(logits, safe), strict=True):
                    torch.logaddexp(known, found, out=known)

        (column_N,) = ring.round(visit, (text_ND,), (torch.full_like(row_N, -torch.inf),))
        ctx.save_for_backward(image_ND, text_ND, scale, row_N, column_N)
        ctx.ring, ctx.chunk = ring, chunk
        return ring.sum(((row_N + column_N) / 2 - (scaled_ND * text_ND).sum(1)).sum()) / ring.rows

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        image_ND, text_ND, scale, row_N, column_N = ctx.saved_tensors
        ring: Ring = ctx.ring
        chunk: int = ctx.chunk
        for_text: bool = ctx.needs_input_grad[1]
        scaled_ND, scratch, other = scale * image_ND, Scratch(image_ND, chunk), Scratch(image_ND, chunk)
        to_image_ND = torch.zeros_like(image_ND)

        def visit(text_MD: Tensor, column_M: Tensor, *to_text_MD: Tensor) -> None:
            safe = _all_safe(scaled_ND, text_MD)
            for rows, columns in tiles(len(scaled_ND), len(text_MD), chunk):
                logits = scratch.product(scaled_ND[rows], text_MD[columns])
                softmaxes = _softmaxes(logits, row_N[rows], column_M[columns], safe, other)
                to_image_ND[rows].addmm_(softmaxes, text_MD[columns])
                for to_text in to_text_MD:
                    to_text[columns].addmm_(softmaxes.T, scaled_ND[rows])

        to_text = ring.round(visit, (text_ND, column_N), (torch.zeros_like(text_ND),) if for_text else ())
        share = ring.sum(gradients[0]) / ring.rows  # the sum: see chiasm.losses.ring
        to_image_ND.div_(2).sub_(text_ND).mul_(share)
        of_scale = (to_image_ND * image_ND).sum() if ctx.needs_input_grad[2] else None
        of_text = to_text[0].div_(2).sub_(scaled_ND).mul_(share) if for_text else None
        return to_image_ND.mul_(scale), of_text, of_scale, None, None


def _all_safe(scaled_ND: Tensor, text_MD: Tensor) -> bool:
    """Whether no logit can be larger than _SAFE, by Cauchy and Schwarz."""
    if not len(scaled_ND) or not len(text_MD):
        return True
    return bool(scaled_ND.norm(dim=1).max() * text_MD.norm(dim=1).max() <= _SAFE)


def _log_sums(logits: Tensor, safe: bool) -> tuple[Tensor, Tensor]:
    """log-sum-exp of each row and of each column; may overwrite the logits."""
    if not safe:
        return logits.logsumexp(1), logits.logsumexp(0)
    powers = logits.exp_()  # one for both directions
    return powers.sum(1).log_(), powers.sum(0).log_()


def _softmaxes(logits: Tensor, row: Tensor, column: Tensor, safe: bool, other: Scratch) -> Tensor:
    """softmax over rows + softmax over columns, written over the logits."""
    second = other.tile(*logits.shape)
    if safe:
        torch.add((-row).exp()[:, None], (-column).exp(), out=second)
        return logits.exp_().mul_(second)
    torch.sub(logits, row[:, None], out=second)
    return logits.sub_(column).exp_().add_(second.exp_())
