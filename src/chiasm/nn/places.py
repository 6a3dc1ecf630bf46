"""Positions of places on a grid, as vectors."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def sines(rows: int, columns: int, width: int) -> Tensor:
    """(rows * columns, width): sines and cosines of each place's column, then of its row (He et al. 2021,
    arXiv:2111.06377, its code), with frequencies from 1 down to 1 / 10,000."""
    rates = 10_000.0 ** -(torch.arange(width // 4) / (width // 4))

    def axis(count: int) -> Tensor:
        angles = torch.arange(count)[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    across, down = axis(columns).expand(rows, -1, -1), axis(rows)[:, None].expand(-1, columns, -1)
    return torch.cat([across, down], dim=-1).flatten(0, 1)


def resized(position_KD: Tensor, side: int) -> Tensor:
    """Positions of a square grid, spread over one of another side, (side * side, D): bicubic, without antialiasing."""
    old = math.isqrt(len(position_KD))
    if old == side:
        return position_KD
    grid_1DHW = position_KD.float().view(1, old, old, -1).permute(0, 3, 1, 2)
    made_1DHW = F.interpolate(grid_1DHW, (side, side), mode="bicubic", align_corners=False)
    return made_1DHW.flatten(2)[0].T.to(position_KD.dtype)
