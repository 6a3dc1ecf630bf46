"""Losses over the pairs of all processes, without any of them holding the rows of the others.

Each process keeps its pictures; the texts travel round a ring of neighbours, a process's share at a time, and come home
with what was gathered about them on the way (the chunked exchange of Zhai et al. 2023, arXiv:2303.15343, section 3.1).

Convention for gradients: every process returns the loss of the global batch, and is given what the sum over the
processes of (what each multiplies its loss by) times that loss asks of its own rows; a scalar's gradient is a process's
part of it. So, whether every process takes the loss as it is or times its share of the pairs and the number of
processes, what DDP and FSDP average is the gradient of the global loss in a single process, for unequal shares too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch import distributed as dist

from chiasm.nn.precision import at_least_float32

# Rows and columns of logits held at once: 16 MB in float32, which fits the last cache of a CPU and keeps a GPU busy.
CHUNK = 2048


class Ring:
    """The processes of this run in a circle; alone where torch.distributed was not started.

    rows: how many pairs this process holds. They may differ between processes. Every process must make the ring, and
    go round it, at the same time.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        started = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if started else (0, 1)
        self.shares = [rows]
        if self.size > 1:
            shares = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(self.size)]
            dist.all_gather(shares, torch.tensor([rows], device=device))
            self.shares = [int(share) for share in shares]
        self.rows = sum(self.shares)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def round(
        self, visit: Callable[..., None], read: Sequence[Tensor], written: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Calls `visit(*read, *written)` with the tensors of every process in turn, beginning with one's own.

        read: rows that a visit uses, sent on while it computes. written: rows that it changes in place; they travel
        along, and are returned when they come home.
        """
        for step in range(self.size):
            arriving = (self.rank - step - 1) % self.size  # whose rows come next
            last = step == self.size - 1
            coming = self._pass_on(() if last else read, arriving, tag=0)
            visit(*read, *written)
            written = _arrived(self._pass_on(written, arriving, tag=1))
            read = _arrived(coming)
        return tuple(written)

    def _pass_on(self, tensors: Sequence[Tensor], arriving: int, tag: int) -> tuple[Sequence[Tensor], list[dist.Work]]:
        """Starts sending to the next process and receiving from the one before."""
        if self.size == 1 or not tensors:
            return tensors, []
        buffers = [tensor.new_empty(self.shares[arriving], *tensor.shape[1:]) for tensor in tensors]
        ends = ((self.rank + 1) % self.size, (self.rank - 1) % self.size)
        moves = [
            dist.P2POp(move, tensor, end, tag=tag * len(tensors) + number)
            for move, end, moved in zip((dist.isend, dist.irecv), ends, (tensors, buffers), strict=True)
            for number, tensor in enumerate(moved)
            if tensor.numel()
        ]
        return buffers, dist.batch_isend_irecv(moves) if moves else []


def _arrived(coming: tuple[Sequence[Tensor], list[dist.Work]]) -> Sequence[Tensor]:
    tensors, moves = coming
    for move in moves:
        move.wait()
    return tensors


def tiles(rows: int, columns: int, chunk: int) -> Iterator[tuple[slice, slice]]:
    """Slices of a table, in tiles of at most chunk x chunk."""
    for row in range(0, rows, chunk):
        for column in range(0, columns, chunk):
            yield slice(row, min(row + chunk, rows)), slice(column, min(column + chunk, columns))


class Scratch:
    """Memory for one tile, used again for every tile: fresh pages would cost more than the arithmetic on them."""

    def __init__(self, like: Tensor, chunk: int) -> None:
        self.flat = like.new_empty(chunk * chunk)

    def tile(self, rows: int, columns: int) -> Tensor:
        return self.flat[: rows * columns].view(rows, columns)

    def product(self, left_MD: Tensor, right_ND: Tensor) -> Tensor:
        """left @ right.T, (M, N)."""
        return torch.mm(left_MD, right_ND.T, out=self.tile(len(left_MD), len(right_ND)))


def full(tensor: Tensor) -> Tensor:
    """The tensor in float32 or more, contiguous: a logit of 100 in bfloat16 is off by a quarter."""
    return at_least_float32(tensor).contiguous()
