"""Positions of places on a grid, as vectors."""

from __future__ import annotations

import math
from collections.abc import Callable

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


def on_grids(grid_N2: Tensor, longest: int, make: Callable[[int, int], Tensor]) -> Tensor:
    """(N, longest, D): the vectors of each picture's own grid, zeros after them.

    grid_N2: rows and columns. make: of these, the vectors of all its positions; pictures of one shape share them.
    """
    grids = [(rows, columns) for rows, columns in grid_N2.tolist()]
    if not grids:
        sample_PD = make(1, 1)
        return sample_PD.new_empty(0, longest, sample_PD.shape[1])
    made = {grid: make(*grid) for grid in set(grids)}
    padded = {grid: F.pad(vectors, (0, 0, 0, longest - len(vectors))) for grid, vectors in made.items()}
    return torch.stack([padded[grid] for grid in grids])


def resized(position_KD: Tensor, side: int, interpolation: str = "bicubic", antialias: bool = False) -> Tensor:
    """Positions of a square grid, spread over one of another side, (side * side, D)."""
    old = math.isqrt(len(position_KD))
    if old == side:
        return position_KD
    grid_1DHW = position_KD.float().view(1, old, old, -1).permute(0, 3, 1, 2)
    made_1DHW = F.interpolate(grid_1DHW, (side, side), mode=interpolation, align_corners=False, antialias=antialias)
    return made_1DHW.flatten(2)[0].T.to(position_KD.dtype)
