"""A bounded cache whose values are made once, however many threads ask for them at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Entry(Generic[V]):
    """The value of one key. values: empty before it is made."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values: list[V] = []


class Recent(Generic[K, V]):
    """The values of the `size` keys that were asked for last. functools.lru_cache lets every thread make its own."""

    def __init__(self, size: int, make: Callable[[K], V]) -> None:
        self.size, self.make = size, make
        self._guard = threading.Lock()
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __call__(self, key: K) -> V:
        with self._guard:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            if len(self._entries) > self.size:
                self._entries.popitem(last=False)
        with entry.lock:  # the first makes it, the others wait; where it fails, the next one tries again
            if not entry.values:
                entry.values.append(self.make(key))
            return entry.values[0]
