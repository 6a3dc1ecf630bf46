"""A shuffled order that needs no memory: the sample at a position follows from (seed, epoch, position) alone.

So a run's position in its data is one number, resuming is exact, and any number of readers can share an order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6
_MASK = (1 << 64) - 1


class Order(Protocol):
    """A permutation of 0 .. len - 1 with random access."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> int: ...


class Shuffle:
    """A pseudo-random permutation of 0 .. count-1 with random access.

    A Feistel network over the next power of four, walked until it lands inside (Black & Rogaway 2002, "Ciphers with
    arbitrary finite domains", cycle walking); at most four steps are expected. Not for secrets.
    """

    def __init__(self, count: int, seed: int, epoch: int) -> None:
        if count < 1:
            raise ValueError("nothing to shuffle")
        self.count = count
        self.half = max(1, ((count - 1).bit_length() + 1) // 2)
        self.keys = [_mix(_mix(seed & _MASK) ^ _mix((epoch << 8) + turn + 1)) for turn in range(_ROUNDS)]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return (self[position] for position in range(self.count))

    def __getitem__(self, position: int) -> int:
        if not 0 <= position < self.count:
            raise IndexError(position)
        position = self._step(position)
        while position >= self.count:
            position = self._step(position)
        return position

    def _step(self, position: int) -> int:
        low_bits = (1 << self.half) - 1
        left, right = position >> self.half, position & low_bits
        for key in self.keys:
            left, right = right, left ^ (_mix(right ^ key) & low_bits)
        return (left << self.half) | right


@dataclass(frozen=True)
class Blocks:
    """Runs of neighbouring samples that are cheap to read together: shards, row groups.

    counts: the samples of each, in order. together: how many are open at once, and shuffled into each other.
    """

    counts: tuple[int, ...]
    together: int


class BlockShuffle:
    """A permutation with random access that opens each block about once: for shards and row groups.

    The blocks are shuffled; then `together` of them at a time, a window, have their samples shuffled among each
    other. Every sample stands once, as in Shuffle, and a reader has the blocks of one window open, of two where it
    passes from one to the next. With no more blocks than `together` it is a uniform shuffle of everything.

    How far samples mix: within a window as in a uniform shuffle, beyond it not at all, so two samples of one block
    are never further apart than a window is long. A batch of B samples sees about W (1 - (1 - 1/W)^B) of the W
    blocks of its window rather than of all. Where samples of a block are alike, with correlation r between two of
    them, the mean of a batch varies by (1 - r) / B + r / W times the variance of a sample instead of 1 / B (cluster
    sampling): with data written in random order r is 0 and nothing is lost; with sorted data (a class a shard) raise
    `together`, or write the shards in random order once.
    """

    def __init__(self, blocks: Blocks, seed: int, epoch: int) -> None:
        counts = blocks.counts
        if sum(counts) < 1:
            raise ValueError("nothing to shuffle")
        self.together, self.seed, self.epoch = blocks.together, seed, epoch
        starts = list(accumulate(counts, initial=0))
        order = list(Shuffle(len(counts), seed, epoch))
        self._starts = [starts[block] for block in order]  # of the blocks, in their new order
        self._ends = list(accumulate(counts[block] for block in order))
        self._windows = [0, *islice(self._ends, self.together - 1, len(order) - 1, self.together), self._ends[-1]]
        # Up to how many samples there are at the end of each window; the shuffles of the last few are kept.
        self._shuffle = lru_cache(maxsize=4)(self._shuffle_of)

    def __len__(self) -> int:
        return self._ends[-1]

    def __iter__(self) -> Iterator[int]:
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: int) -> int:
        if not 0 <= position < len(self):
            raise IndexError(position)
        window = bisect_right(self._windows, position) - 1
        first = self._windows[window]
        position = first + self._shuffle(window)[position - first]
        block = bisect_right(self._ends, position)
        before = self._ends[block - 1] if block else 0
        return self._starts[block] + position - before

    def _shuffle_of(self, window: int) -> Shuffle:
        count = self._windows[window + 1] - self._windows[window]
        return Shuffle(count, _mix(self.seed & _MASK) ^ (window + 1), self.epoch)


def shuffled(count: int, blocks: Blocks | None, seed: int, epoch: int) -> Order:
    """The order of an epoch: uniform, or by blocks where there are any."""
    return Shuffle(count, seed, epoch) if blocks is None else BlockShuffle(blocks, seed, epoch)


def seed_of(seed: int, number: int) -> int:
    """A separate seed for each of several orders."""
    return _mix(_mix(seed & _MASK) ^ _mix(number + 1))


def interleaved(quotas: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One round of a mixture: at each of sum(quotas) positions whose turn it is, and how many turns it had before.

    Turn k of source i falls on the time (k + 1/2) / quotas[i], and turns are taken in order of time (ties to the
    first source). So after t positions source i has had its share t p_i, within 1/2 + p_i n / 2 of n sources: as
    even as Bresenham's line.
    """
    turns = np.concatenate([np.arange(quota) for quota in quotas])
    sources = np.repeat(np.arange(len(quotas)), quotas)
    times = (turns + 0.5) / np.repeat(np.asarray(quotas, np.float64), quotas)
    order = np.argsort(times, kind="stable")
    return sources[order], turns[order]


def _mix(word: int) -> int:
    """SplitMix64's finaliser (Steele et al. 2014): every bit of the result depends on every bit of the word."""
    word = (word + 0x9E3779B97F4A7C15) & _MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)
