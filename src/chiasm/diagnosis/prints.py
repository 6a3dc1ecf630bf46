"""Perceptual fingerprints of pictures, by which near copies are found though their bytes differ.

A print is a difference hash of 64 bits (which of two neighbouring grey levels is higher; Krawetz 2013, "Kind of like
that") and the colours of a 4 x 4 grid without the mean of each and without contrast. Pictures are candidates
where both are close, and alike where they correlate when they are looked at again, larger."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from chiasm.data.image import Image

SIDE = 64  # pixels, the shorter side that a picture is decoded at, at least
_GRID = 4
_MOST_BITS = 12  # of 64 that may differ between candidates: a copy in another size and quality differs by a few
_CLOSE = 0.985  # correlation of the colours of candidates
_ALIKE = 0.95  # correlation of 32 x 32 pixels of pictures that are said to be alike
_FLAT = 2.0  # grey levels; a picture with less contrast is like every other such one, and says nothing
_CHUNK = 2048
MOST = 50_000  # pictures compared with each other; of more, an even spread


@dataclass(frozen=True)
class Print:
    """A picture's fingerprint. bits_64: the difference hash, as booleans.

    colours_48: the colours of the grid, unit length; None for a flat picture.
    """

    bits_64: NDArray[np.bool_]
    colours_48: NDArray[np.float32] | None


def print_of(image: PIL.Image.Image) -> Print:
    """The print of a decoded RGB picture."""
    grey = np.asarray(image.convert("L").resize((9, 8), PIL.Image.Resampling.BOX), np.int16)
    return Print((grey[:, 1:] > grey[:, :-1]).reshape(-1), _standard(image, _GRID))


def alike(first: Image, second: Image) -> bool:
    """Whether two pictures show the same, but for size, compression, and a little light."""
    left, right = (_standard(image.decode(at_least=SIDE), 32) for image in (first, second))
    return left is not None and right is not None and float(left @ right) >= _ALIKE


def _standard(image: PIL.Image.Image, side: int) -> NDArray[np.float32] | None:
    """The colours of a picture scaled down, each with mean 0, all of length 1; None where there is no contrast."""
    colours_PC = np.asarray(image.resize((side, side), PIL.Image.Resampling.BOX), np.float32).reshape(-1, 3)
    colours = (colours_PC - colours_PC.mean(axis=0)).reshape(-1)
    length = float(np.linalg.norm(colours))
    return None if length < _FLAT * np.sqrt(len(colours)) else colours / length


@dataclass
class Prints:
    """The prints of many pictures, 112 bytes each. numbers: the caller's own number of each picture."""

    numbers: array[int] = field(default_factory=lambda: array("q"))
    _bits: bytearray = field(default_factory=bytearray)
    _colours: bytearray = field(default_factory=bytearray)

    def add(self, number: int, print_: Print) -> None:
        """Adds a print; flat pictures are passed over."""
        if print_.colours_48 is not None:
            self.numbers.append(number)
            self._bits += np.packbits(print_.bits_64).tobytes()
            self._colours += print_.colours_48.astype(np.float16).tobytes()

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def compared(self) -> NDArray[np.int64]:
        """Indexes of the prints that are compared: all of them, or an even spread of at most MOST."""
        count = min(len(self), MOST)
        return np.arange(count, dtype=np.int64) * len(self) // max(1, count)

    def pairs(self, other: Prints | None = None) -> Iterator[tuple[int, int]]:
        """Pairs of numbers of candidates: within these prints, or between them and others."""
        mine, theirs = self._unpacked(), (other or self)._unpacked()
        of_mine, of_theirs = self.compared, (other or self).compared
        for start in range(0, len(of_mine), _CHUNK):
            rows = slice(start, start + _CHUNK)
            columns = slice(start if other is None else 0, None)  # each pair once
            differing = (64 - mine[0][rows] @ theirs[0][columns].T) / 2  # of +1 and -1, the product counts what agrees
            close = (differing <= _MOST_BITS) & (mine[1][rows] @ theirs[1][columns].T >= _CLOSE)
            for row, column in zip(*np.nonzero(close), strict=True):
                first, second = start + int(row), int(column) + (columns.start or 0)
                if other is not None or first < second:
                    yield self.numbers[of_mine[first]], (other or self).numbers[of_theirs[second]]

    def _unpacked(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        packed = np.frombuffer(self._bits, np.uint8).reshape(-1, 8)[self.compared]
        signs = np.unpackbits(packed, axis=1).astype(np.float32) * 2 - 1
        colours = np.frombuffer(self._colours, np.float16).reshape(-1, 48)[self.compared]
        return signs, colours.astype(np.float32)
