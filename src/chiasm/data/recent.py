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
        self._image_tokens: OrderedDict[K, _Slot[V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._image_tokens)

    def __call__(self, key: K) -> V:
        with self._guard:
            image_token = self._image_tokens.setdefault(key, _Slot())
            self._image_tokens.move_to_end(key)
            if len(self._image_tokens) > self.size:
                self._image_tokens.popitem(last=False)
        with image_token.lock:  # the first makes it, the others wait; where it fails, the next one tries again
            if not image_token.values:
                image_token.values.append(self.make(key))
            return image_token.values[0]
