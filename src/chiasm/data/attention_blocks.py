"""Blocks of a stream within which attention goes both ways; nn/attention_mask.py defines what a block means."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CAUSAL = -1  # of a token that is in no block


def prefix_blocks(prefixes: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """(T,) blocks in which the first tokens of each sequence, its prefix, see each other.

    prefixes: tokens of each sequence's prefix. lengths: of the sequences.
    """
    blocks = torch.full((sum(lengths),), CAUSAL)
    for sequence, prefix in zip(torch.split(blocks, list(lengths)), prefixes, strict=True):
        sequence[:prefix] = 0
    return blocks
