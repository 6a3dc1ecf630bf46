"""A shuffled order that needs no memory: the place of every sample follows from (seed, epoch, position) alone.

So a run's position in its data is one number, resuming is exact, and any number of readers can share an order."""

from __future__ import annotations

from collections.abc import Iterator

_ROUNDS = 6
_MASK = (1 << 64) - 1


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
        return (self[place] for place in range(self.count))

    def __getitem__(self, place: int) -> int:
        if not 0 <= place < self.count:
            raise IndexError(place)
        place = self._step(place)
        while place >= self.count:
            place = self._step(place)
        return place

    def _step(self, place: int) -> int:
        low_bits = (1 << self.half) - 1
        left, right = place >> self.half, place & low_bits
        for key in self.keys:
            left, right = right, left ^ (_mix(right ^ key) & low_bits)
        return (left << self.half) | right


def _mix(word: int) -> int:
    """SplitMix64's finaliser (Steele et al. 2014): every bit of the result depends on every bit of the word."""
    word = (word + 0x9E3779B97F4A7C15) & _MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)
