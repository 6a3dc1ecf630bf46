"""What every source of samples offers: a length, and a sample by its index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

from chiasm.config import Component
from chiasm.data.sample import Sample


class Source(Component, ABC, room="chiasm.data.sources", key="source"):
    """A collection of samples with random access. A subclass is a frozen dataclass: its fields are its recipe entry.

    Opening is cheap and checks that what it names exists. `source[i]` raises DataError for a sample that cannot be
    read, naming it; readers then count and skip it.
    """

    @classmethod
    def to_look_at(cls) -> Mapping[str, object]:
        """Entries with which a person is shown this source, where they say nothing else."""
        return {}

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))
