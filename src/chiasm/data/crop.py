"""A part of a picture, cut out when it is decoded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chiasm.data.image import Image


class Crop(Image):
    """The pixels of a picture from (x0, y0) up to, not including, (x1, y1); black where that leaves the picture.

    Nothing is read until asked, and no pixels are held. Raises DataError where the whole picture does.
    """

    __slots__ = ("_corners", "_whole")

    def __init__(self, whole: Image, corners: tuple[int, int, int, int]) -> None:
        self._whole, self._corners, self._key = whole, corners, None

    @property
    def source(self) -> NDArray[np.uint8]:  # type: ignore[override]  # made anew each time, never set
        return np.asarray(self._whole.decode().crop(self._corners))

    @property
    def name(self) -> str:
        return f"{self._whole.name} cut to {self._corners}"

    @property
    def size(self) -> tuple[int, int]:
        x0, y0, x1, y1 = self._corners
        return x1 - x0, y1 - y0
