"""All-gather of rows with gradients, for losses that look at chosen rows of other processes.

Where a loss only compares rows, `chiasm.losses.ring` does with far less memory. The convention for gradients is the
same: a row is given what the sum over the processes of (what each multiplies its loss by) times the loss asks of it."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from chiasm.losses.ring import Ring


def gathered(rows: Tensor, ring: Ring) -> Tensor:
    """The rows of all processes, in their order; those of one process may be more than those of another."""
    if ring.size == 1:
        return rows
    return cast("Tensor", _Gathered.apply(rows, ring))  # type: ignore[no-untyped-call]  # torch's


def summed(part: Tensor, ring: Ring) -> Tensor:
    """The sum over the processes of each one's part of a loss, which all of them return as the loss."""
    if ring.size == 1:
        return part
    return cast("Tensor", _Summed.apply(part, ring))  # type: ignore[no-untyped-call]  # torch's


def first_row(ring: Ring) -> int:
    """The index among the gathered rows at which those of this process begin."""
    return sum(ring.shares[: ring.rank])


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, ring: Ring) -> Tensor:
        ctx.ring = ring
        most = max(ring.shares)
        padding = (0, 0) * (rows.ndim - 1) + (0, most - len(rows))
        parts = [rows.new_empty(most, *rows.shape[1:]) for _ in range(ring.size)]
        dist.all_gather(parts, F.pad(rows, padding).contiguous())
        return torch.cat([part[:share] for part, share in zip(parts, ring.shares, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        ring: Ring = ctx.ring
        first = first_row(ring)
        return ring.sum(gradients[0].contiguous())[first : first + ring.shares[ring.rank]], None


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, ring: Ring) -> Tensor:
        ctx.ring = ring
        return ring.sum(part)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        ring: Ring = ctx.ring
        return ring.sum(gradients[0]), None
