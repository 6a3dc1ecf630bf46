from __future__ import annotations

from itertools import islice

import pytest
import torch

from chiasm.data.buffers import Buffers
from chiasm.data.reader import Reader
from tests.worlds import Patches, tiny_processor


def test_memory_is_used_again_when_no_tensor_shares_it_any_more() -> None:
    buffers = Buffers()
    first = buffers.empty(4, 3)
    where = first.data_ptr()
    first.fill_(1.0)
    part = first[2:]  # as a piece of a batch that the loop still holds
    del first
    second = buffers.empty(4, 3)
    assert second.data_ptr() != where
    second.fill_(2.0)
    assert (part == 1.0).all()
    del part
    assert buffers.empty(4, 3).data_ptr() == where


def test_gradients_keep_their_batch() -> None:
    """What backward still needs is not handed out anew, even when nobody holds the batch by name."""
    buffers, weight = Buffers(), torch.ones(8, requires_grad=True)
    batch = buffers.empty(8)
    batch.fill_(3.0)
    loss = (weight * batch).sum()
    del batch
    buffers.empty(8).fill_(7.0)
    loss.backward()
    assert weight.grad is not None
    assert (weight.grad == 3.0).all()


def test_as_many_are_kept_as_were_in_use_at_once_and_of_one_size() -> None:
    buffers = Buffers()
    for _ in range(20):
        held = [buffers.empty(16) for _ in range(3)]
        del held
        assert len(buffers._free) == 3
    kept = [buffers.empty(2, 5) for _ in range(3)]
    del kept
    assert [memory.size for memory in buffers._free] == [10, 10, 10]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_reader_needs_no_more_memory_however_long_it_reads(threads: int) -> None:
    reader = Reader(Patches(64), tiny_processor(), 8, threads=threads, ahead=2)
    places = set()
    for batch in islice(reader, 60):
        assert batch.images is not None
        places.add(batch.images.pixels.data_ptr())
    assert len(places) <= 5  # three on their way, one handed out, one about to be let go
