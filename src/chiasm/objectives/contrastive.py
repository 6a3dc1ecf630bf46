"""The symmetric contrastive loss, InfoNCE over the batch (Radford et al. 2021, arXiv:2103.00020, figure 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(image_ND: Tensor, text_ND: Tensor, scale: Tensor) -> Tensor:
    """Mean of two cross-entropies: which text belongs to each picture, and which picture to each text.

        logits = scale * image @ text.T;   loss = (CE(logits, i) + CE(logits.T, i)) / 2

    image_ND, text_ND: unit length, row i of one belongs to row i of the other. scale: 1 / temperature, a scalar.
    """
    logits_NN = scale * image_ND @ text_ND.T
    matching_N = torch.arange(len(logits_NN), device=logits_NN.device)
    return (F.cross_entropy(logits_NN, matching_N) + F.cross_entropy(logits_NN.T, matching_N)) / 2
