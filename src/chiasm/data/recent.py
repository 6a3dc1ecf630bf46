"""A bounded cache whose values are made once, however many threads ask for them at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Slot(Generic[V]):
    """Where a value will be. values: empty before it is made."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values: list[V] = []


class Recent(Generic[K, V]):
    """The values of the `size` keys that were asked for last. functools.lru_cache lets every thread make its own."""

    def __init__(self, size: int, make: Callable[[K], V]) -> None:
        self.size, self.make = size, make
        self._guard = threading.Lock()
        self._slots: OrderedDict[K, _Slot[V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._slots)

    def __call__(self, key: K) -> V:
        with self._guard:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
            if len(self._slots) > self.size:
                self._slots.popitem(last=False)
        with slot.lock:  # the first makes it, the others wait; where it fails, the next one tries again
            if not slot.values:
                slot.values.append(self.make(key))
            return slot.values[0]
