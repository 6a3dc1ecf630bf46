"""The base of every source of samples: a length, a sample by its index, and an order to train in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from chiasm.config import Component
from chiasm.data.order import Blocks, Order, shuffled
from chiasm.data.sample import Sample


class Source(Component, ABC, package="chiasm.data.sources", key="source"):
    """A collection of samples with random access. A subclass is a frozen dataclass: its fields are its recipe entry.

    Opening is cheap and checks that what it names exists. `source[i]` raises DataError for a sample that cannot be
    read, naming it; readers then count and skip it.
    """

    @classmethod
    def to_look_at(cls) -> Mapping[str, object]:
        """Entries with which a person is shown this source, where they say nothing else."""
        return {}

    @property
    def in_shards(self) -> bool:
        """Whether samples lie in files of many, named in their keys before the last "/"."""
        return False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def blocks(self) -> Blocks | None:
        """Neighbours that are cheap to read together, such as row groups; None where each sample is read alone."""
        return None

    def at(self, position: int, seed: int) -> int:
        """The index of the sample at a position of the endless training order.

        Epoch after epoch, each in an order of its own, every sample once in each. It follows from (seed, position)
        alone.
        """
        epoch, index = divmod(position, len(self))
        return self._order(seed, epoch)[index]

    def called(self, index: int) -> str:
        """The name in logs of a sample that could not be read, and so has no key."""
        return f"sample {index} of the source"

    @cached_property
    def _order(self) -> Callable[[int, int], Order]:
        """The order by (seed, epoch); the last few are kept."""
        return lru_cache(maxsize=4)(lambda seed, epoch: shuffled(len(self), self.blocks(), seed, epoch))


@dataclass(frozen=True)
class Derived(Source):
    """A source that makes a sample out of each one of another source. of: that source.

    They come in its order, so a mixture keeps its shares, and what is cheap to read together is read together.
    """

    of: Source

    def __len__(self) -> int:
        return len(self.of)

    def blocks(self) -> Blocks | None:
        return self.of.blocks()

    def at(self, position: int, seed: int) -> int:
        return self.of.at(position, seed)

    def called(self, index: int) -> str:
        return self.of.called(index)

    @property
    def in_shards(self) -> bool:
        return self.of.in_shards
