"""The pairwise sigmoid loss (Zhai et al. 2023, arXiv:2303.15343, equation 1)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chiasm.losses.ring import CHUNK, Ring, Scratch, full, tiles


def pairwise_sigmoid(image_ND: Tensor, text_ND: Tensor, scale: Tensor, bias: Tensor, chunk: int = CHUNK) -> Tensor:
    """Binary cross-entropy of every pair of the batch: does this text belong to this picture?

        loss = -1/N * sum_ij log sigmoid(z_ij * (scale * image_i . text_j + bias)),   z_ij = 1 if i == j else -1

    image_ND, text_ND: unit length. scale, bias: scalars; SigLIP starts at 10 and -10, so that the many negatives do
    not swamp the first steps.

    Up to `chunk` pairs the formula is computed as it stands; beyond, and over several processes, by blocks, as
    `chiasm.losses.contrastive.info_nce` does. Nothing is computed twice here: a pair's gradient needs no other
    pair, so it is computed in the forward pass.
    """
    with torch.autocast(image_ND.device.type, enabled=False):
        image_ND, text_ND, scale, bias = full(image_ND), full(text_ND), full(scale), full(bias)
        ring = Ring(len(image_ND), image_ND.device)
        if ring.size == 1 and ring.rows <= chunk:
            return plain_pairwise_sigmoid(image_ND, text_ND, scale, bias)
        loss: Tensor = _PairwiseSigmoid.apply(image_ND, text_ND, scale, bias, ring, chunk)  # type: ignore[no-untyped-call]  # torch's
        return loss


def plain_pairwise_sigmoid(image_ND: Tensor, text_ND: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """The formula as it stands, for the pairs of one process; holds (N, N)."""
    logits_NN = scale * image_ND @ text_ND.T + bias
    sign_NN = 2 * torch.eye(len(logits_NN), device=logits_NN.device, dtype=logits_NN.dtype) - 1
    return -F.logsigmoid(sign_NN * logits_NN).sum() / len(logits_NN)


class _PairwiseSigmoid(torch.autograd.Function):
    """Of a logit s, -log sigmoid(-s) = softplus(s), and -log sigmoid(s) = softplus(s) - s: so the loss is softplus(s)
    over all pairs less s over the matching ones, and its gradient by s is sigmoid(s), less 1 for those."""

    @staticmethod
    def forward(
        ctx: Any, image_ND: Tensor, text_ND: Tensor, scale: Tensor, bias: Tensor, ring: Ring, chunk: int
    ) -> Tensor:
        scaled_ND, scratch = scale * image_ND, Scratch(image_ND, chunk)
        learns = any(ctx.needs_input_grad)
        for_text: bool = ctx.needs_input_grad[1]
        total, of_bias = image_ND.new_zeros(()), image_ND.new_zeros(())
        to_image_ND = torch.zeros_like(image_ND)

        def visit(text_MD: Tensor, *to_text_MD: Tensor) -> None:
            for rows, columns in tiles(len(scaled_ND), len(text_MD), chunk):
                logits = scratch.product(scaled_ND[rows], text_MD[columns]).add_(bias)
                total.add_(F.softplus(logits).sum())
                if learns:
                    slopes = logits.sigmoid_()
                    of_bias.add_(slopes.sum())
                    to_image_ND[rows].addmm_(slopes, text_MD[columns])
                    for to_text in to_text_MD:
                        to_text[columns].addmm_(slopes.T, scaled_ND[rows])

        to_text = ring.round(visit, (text_ND,), (torch.zeros_like(text_ND),) if for_text else ())
        if learns:
            to_image_ND.sub_(text_ND).div_(ring.rows)
            of_scale = (to_image_ND * image_ND).sum()
            of_text = [found.sub_(scaled_ND).div_(ring.rows) for found in to_text]
            of_bias = (of_bias - len(image_ND)) / ring.rows
            ctx.ring = ring
            ctx.save_for_backward(of_scale, of_bias, to_image_ND.mul_(scale), *of_text)
        matching = (scaled_ND * text_ND).sum() + bias * len(image_ND)
        return ring.sum(total - matching) / ring.rows

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_scale, of_bias, of_image, *of_text = ctx.saved_tensors
        share = ctx.ring.sum(gradients[0])
        given = (of_image, of_text[0] if of_text else None, of_scale, of_bias)
        return *(None if gradient is None else gradient * share for gradient in given), None, None
