"""An image whose pixels are made when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from chiasm.data.image import Image

__all__ = ["LazyImage"]


class LazyImage(Image):
    """The (H, W, 3) uint8 pixels that `make` returns, called once and only if they are asked for.

    Who reads a sample's captions alone does not wait for its pixels.

    size: (width, height) of what `make` returns, known without calling it.
    make: gives equal pixels whenever it is called, since two threads that ask at once may both call it.
    """

    __slots__ = ("_made", "_make", "_size")

    def __init__(self, make: Callable[[], NDArray[np.uint8]], size: tuple[int, int]) -> None:
        self._make, self._size, self._key = make, size, None
        self._made: NDArray[np.uint8] | None = None

    def __reduce__(self) -> tuple[type[LazyImage], tuple[object, ...]]:
        return type(self), (self._make, self._size)

    @property
    def source(self) -> NDArray[np.uint8]:  # type: ignore[override]  # made when asked, never set
        if self._made is None:
            self._made = self._make()
        return self._made

    @property
    def name(self) -> str:
        return f"<array {self._size[0]}x{self._size[1]}>"

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    @property
    def is_decoded(self) -> bool:
        return True
