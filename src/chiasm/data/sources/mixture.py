"""Several sources as one, mixed by weights or by temperature; each passed through without replacement."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from chiasm.config import suggest
from chiasm.data.order import interleaved, seed_of
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.errors import DataError, RecipeError

_ROUND = 1 << 20  # positions after which the turns of the sources repeat, unless the shares are simple fractions
_SIMPLE = 1 << 14


@dataclass(frozen=True)
class Mixture(Source):
    """All samples of some sources; in training source i has the share p_i of the positions.

    p_i is proportional to w_i n_i^(1/T), with the weight w_i, the number of its samples n_i and the temperature T.
    sources: by name, `{coco: {source: coco, ...}, web: {...}}`, or a list, where they are called 0, 1, ...; they may
        be mixtures, too.
    weights: w_i, in the form of `sources`. Alone they are the shares, whatever the sizes: p_i is proportional to w_i.
    temperature: T. 1 mixes by size, as if the sources were one; above 1 small sources are seen more often, as in
        multilingual training (mT5, arXiv:2010.11934, has 1/T = 0.3); infinity gives all the same share. By default 1,
        or infinity where weights are given.

    Turns follow the shares as closely as whole numbers can (see data.order.interleaved), so nearly every batch holds
    the same mixture. A source's k-th turn takes position k of its own endless order: every sample of it once before any
    again, each time in a new order, and a source with twice its natural share is passed through twice as often. All of
    that follows from (seed, position), as the Reader's rule wants. Shares that are no simple fractions are rounded to
    multiples of 2^-20.

    By index, as in evaluation, the samples stand source after source, each once. Keys begin with the name of the
    source, which is meta["source"], too. Raises RecipeError for weights that do not fit, and DataError where a source
    is empty.
    """

    sources: Mapping[str, Source] | tuple[Source, ...]
    weights: Mapping[str, float] | tuple[float, ...] | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise RecipeError("mixture.sources: name at least one source")
        if self.temperature is not None and not self.temperature > 0:
            raise RecipeError(f"mixture.temperature must be above 0, not {self.temperature}")
        if self.weights is None:
            return
        if isinstance(self.weights, Mapping) != isinstance(self.sources, Mapping):
            raise RecipeError("mixture.weights must have the form of mixture.sources: both named, or both listed")
        if len(self.weights) != len(self.sources):
            raise RecipeError(f"mixture: {len(self.sources)} sources need as many weights, not {len(self.weights)}")
        if isinstance(self.weights, Mapping) and (unknown := sorted(self.weights.keys() - set(self._names))):
            raise RecipeError(f"mixture.weights: there is no source '{unknown[0]}'{suggest(unknown[0], self._names)}")
        for name, weight in zip(self._names, self._given, strict=True):
            if not (math.isfinite(weight) and weight > 0):
                raise RecipeError(
                    f"mixture.weights: the weight of '{name}' must be above 0, not {weight}; leave it out"
                )

    @cached_property
    def _names(self) -> list[str]:
        return list(self.sources) if isinstance(self.sources, Mapping) else [str(i) for i in range(len(self.sources))]

    @cached_property
    def _members(self) -> list[Source]:
        return list(self.sources.values()) if isinstance(self.sources, Mapping) else list(self.sources)

    @cached_property
    def _given(self) -> list[float]:
        """The weight of each source, in order."""
        if isinstance(self.weights, Mapping):
            return [self.weights[name] for name in self._names]
        return [1.0] * len(self._names) if self.weights is None else list(self.weights)

    @cached_property
    def _ends(self) -> list[int]:
        """How many samples there are up to the end of each source."""
        for name, member in zip(self._names, self._members, strict=True):
            if len(member) == 0:
                raise DataError(f"the source '{name}' of the mixture is empty; leave it out, or check its path")
        return list(accumulate(len(member) for member in self._members))

    @cached_property
    def quotas(self) -> list[int]:
        """The number of positions of a round that each source has: the shares p_i in whole numbers."""
        sizes = np.diff([0, *self._ends]).tolist()
        by_size = self.temperature if self.temperature is not None else (1.0 if self.weights is None else math.inf)
        if by_size == 1:
            powers = [Fraction(size) for size in sizes]
        elif math.isinf(by_size):
            powers = [Fraction(1) for _ in sizes]
        else:
            powers = [Fraction((size / max(sizes)) ** (1 / by_size)) for size in sizes]
        wanted = [Fraction(str(weight)) * power for weight, power in zip(self._given, powers, strict=True)]
        return _whole(wanted, self._names)

    @cached_property
    def _turns(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return interleaved(self.quotas)

    def __len__(self) -> int:
        return self._ends[-1]

    def at(self, position: int, seed: int) -> int:
        number, turn = self._turn(position)
        before = self._ends[number - 1] if number else 0
        return before + self._members[number].at(turn, seed_of(seed, number))

    def _turn(self, position: int) -> tuple[int, int]:
        """The source whose turn it is at a position, and how many turns it had before."""
        sources, turns = self._turns
        rounds, turn = divmod(position, len(sources))
        number = int(sources[turn])
        return number, rounds * self.quotas[number] + int(turns[turn])

    def _find(self, index: int) -> tuple[int, int]:
        """The source that an index falls into, and the index in it."""
        index = range(len(self))[index]
        number = bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)

    def __getitem__(self, index: int) -> Sample:
        number, within = self._find(index)
        name = self._names[number]
        sample = self._members[number][within]
        return replace(sample, key=f"{name}/{sample.key}", meta={**sample.meta, "source": name})

    def called(self, index: int) -> str:
        number, within = self._find(index)
        return f"{self._names[number]}: {self._members[number].called(within)}"


def _whole(wanted: list[Fraction], names: list[str]) -> list[int]:
    """Whole numbers in the proportions that are wanted: exact where few suffice, else rounded to a sum of _ROUND."""
    scale = math.lcm(*(weight.denominator for weight in wanted))
    exact = [int(weight * scale) for weight in wanted]
    exact = [count // math.gcd(*exact) for count in exact]
    if sum(exact) <= _SIMPLE:
        return exact
    total = sum(wanted)
    shares = [weight / total * _ROUND for weight in wanted]
    quotas = [int(share) for share in shares]
    # The largest remainders are rounded up (Hamilton's method), so that the sum is kept.
    left = sorted(range(len(shares)), key=lambda i: quotas[i] - shares[i])
    for i in left[: _ROUND - sum(quotas)]:
        quotas[i] += 1
    if 0 in quotas:
        name = names[quotas.index(0)]
        raise RecipeError(
            f"mixture: the share of '{name}' is below a millionth, so it would hardly be seen; leave it out"
        )
    return quotas
