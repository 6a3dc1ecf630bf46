"""A part of a picture, cut out when it is decoded."""

from __future__ import annotations

import hashlib

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from chiasm.data.image import Image


class Crop(Image):
    """A rectangle of a picture, from (x0, y0) up to but not including (x1, y1); black where it leaves the picture.

    Nothing is read until asked, and no pixels are held. Raises DataError where the whole picture does.
    """

    __slots__ = ("_corners", "_whole")

    def __init__(self, whole: Image, corners: tuple[int, int, int, int]) -> None:
        self._whole, self._corners, self._key = whole, corners, None

    @property
    def source(self) -> NDArray[np.uint8]:  # type: ignore[override]  # made anew each time, never set
        return self.pixels_uint8()

    @property
    def name(self) -> str:
        return f"{self._whole.name} cut to {self._corners}"

    @property
    def key(self) -> str:
        """A hash of the whole picture's content and the corners; nothing is decoded for it."""
        if self._key is None:
            self._key = hashlib.blake2b(f"{self._whole.key} {self._corners}".encode(), digest_size=16).hexdigest()
        return self._key

    @property
    def size(self) -> tuple[int, int]:
        x0, y0, x1, y1 = self._corners
        return x1 - x0, y1 - y0

    @property
    def is_decoded(self) -> bool:
        return False

    def decode(self, at_least: int | None = None) -> PIL.Image.Image:
        """The part as RGB, always exact: a reduced size would move its corners."""
        del at_least
        return self._whole.decode().crop(self._corners)

    def pixels_uint8(self) -> NDArray[np.uint8]:
        return np.asarray(self.decode())

    def encoded(self) -> bytes:
        """The part as a PNG."""
        return Image(self.pixels_uint8()).encoded()

    def jpeg(self) -> None:
        """Always None: the whole picture may be a JPEG, but a part of it is not."""
