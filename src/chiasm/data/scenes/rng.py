"""Random numbers by key: the same key gives the same numbers in whatever order scenes are asked for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, MutableSequence, Sequence
from itertools import accumulate
from typing import TypeVar

import numpy as np

T = TypeVar("T")

_BLOCK = 256  # drawing a block at once costs as much as drawing two numbers one by one


class Rng:
    """A stream of random choices that depends on its key alone.

    key: non-negative integers, such as (seed, index). The numbers are uniform doubles of PCG64, whose stream is
    fixed between versions of NumPy; every choice is made from them here, so scenes never change with a version.
    """

    __slots__ = ("_at", "_block", "_generator")

    def __init__(self, *key: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
        self._block: list[float] = self._generator.random(_BLOCK).tolist()
        self._at = 0

    def uniform(self) -> float:
        """A number in [0, 1)."""
        if self._at == _BLOCK:
            self._block = self._generator.random(_BLOCK).tolist()
            self._at = 0
        number = self._block[self._at]
        self._at += 1
        return number

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def integer(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return low + int(self.uniform() * (high - low + 1))

    def choice(self, options: Sequence[T]) -> T:
        return options[int(self.uniform() * len(options))]

    def shuffle(self, items: MutableSequence[T]) -> None:
        """Shuffles in place (Fisher and Yates)."""
        for i in range(len(items) - 1, 0, -1):
            j = int(self.uniform() * (i + 1))
            items[i], items[j] = items[j], items[i]

    def sample(self, options: Sequence[T], number: int) -> list[T]:
        """Different options in random order, all of them where there are fewer than `number`."""
        rest = list(options)
        self.shuffle(rest)
        return rest[:number]


class Law:
    """A distribution over names. weights: not negative, not all zero; they need not sum to one.

    names: those that can be drawn.
    """

    __slots__ = ("_cumulative", "_probabilities", "names")

    def __init__(self, weights: Mapping[str, float]) -> None:
        total = sum(weights.values())
        self._probabilities = {name: weight / total for name, weight in weights.items() if weight > 0}
        self.names = tuple(self._probabilities)
        self._cumulative = list(accumulate(self._probabilities.values()))[:-1]  # rounding must not lose the last name

    def draw(self, rng: Rng) -> str:
        return self.names[bisect_right(self._cumulative, rng.uniform())]

    def probability(self, name: str) -> float:
        return self._probabilities.get(name, 0.0)
