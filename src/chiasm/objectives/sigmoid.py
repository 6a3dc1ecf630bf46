"""The pairwise sigmoid loss (Zhai et al. 2023, arXiv:2303.15343, equation 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pairwise_sigmoid(image_ND: Tensor, text_ND: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Every pair of the batch on its own: does this text belong to this picture?

        loss = -1/N * sum_ij log sigmoid(z_ij * (scale * image_i . text_j + bias)),   z_ij = 1 if i == j else -1

    image_ND, text_ND: unit length. scale, bias: scalars; SigLIP starts at 10 and -10, so that the many negatives do
    not swamp the first steps.
    """
    logits_NN = scale * image_ND @ text_ND.T + bias
    sign_NN = 2 * torch.eye(len(logits_NN), device=logits_NN.device, dtype=logits_NN.dtype) - 1
    return -F.logsigmoid(sign_NN * logits_NN).sum() / len(logits_NN)
