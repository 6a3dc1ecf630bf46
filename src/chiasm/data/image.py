"""A picture that is decoded when it is needed, once, at the size needed, always to RGB."""

from __future__ import annotations

import copy
import hashlib
import io
from pathlib import Path
from typing import Any, Self

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from chiasm.data import decoding
from chiasm.data.decoding import MAX_PIXELS
from chiasm.errors import DataError

__all__ = ["MAX_PIXELS", "Image"]


class Image:
    """A picture given as a path, as encoded bytes, or as an (H, W, 3) uint8 array; nothing is read until asked.

    Every mode becomes RGB the same way everywhere: EXIF rotation is applied, transparency is laid on white, 16-bit
    greys are scaled to 8, of an animation the first frame is taken. Raises DataError, naming the picture, if it is
    missing, broken, or larger than MAX_PIXELS.

    role, target: as of a Text: whose turn of a chat it belongs to ("" for that of the text after it), and whether it is
    learned, by models that write images.
    """

    __slots__ = ("_key", "role", "source", "target")
    role: str
    target: bool

    def __new__(cls, *_args: Any, **_entries: Any) -> Self:
        """A new image, also of a subclass with other arguments; it has no role and is no target, as most images."""
        image = super().__new__(cls)
        image.role, image.target = "", False
        return image

    def __init__(self, source: str | Path | bytes | NDArray[np.uint8], *, role: str = "", target: bool = False) -> None:
        self.role, self.target = role, target
        if not isinstance(source, (str, Path, bytes, np.ndarray)):
            raise TypeError(
                f"a picture is a path, bytes or an array, not a {type(source).__name__}; np.asarray(it) may do"
            )
        if isinstance(source, np.ndarray) and (
            source.size == 0 or source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8
        ):
            raise DataError(f"a picture array must be (H, W, 3) uint8, not {source.shape} {source.dtype}")
        self.source: Path | bytes | NDArray[np.uint8] = Path(source) if isinstance(source, str) else source
        self._key: str | None = None

    def __repr__(self) -> str:
        return f"Image({self.name})"

    def placed(self, role: str, target: bool = False) -> Self:
        """The same image in a turn of that role."""
        image = copy.copy(self)
        image.role, image.target = role, target
        return image

    @property
    def name(self) -> str:
        """The picture's name in errors: its path, or what it is where it has none."""
        if isinstance(self.source, Path):
            return str(self.source)
        if isinstance(self.source, bytes):
            return f"<{len(self.source)} bytes>"
        return f"<array {self.source.shape[1]}x{self.source.shape[0]}>"

    @property
    def key(self) -> str:
        """A hash of the content: equal pictures have equal keys, wherever they come from. Reads, does not decode."""
        if self._key is None:
            content = self.source.tobytes() if isinstance(self.source, np.ndarray) else self.encoded()
            shape = str(self.source.shape).encode() if isinstance(self.source, np.ndarray) else b""
            self._key = hashlib.blake2b(shape + content, digest_size=16).hexdigest()
        return self._key

    def encoded(self) -> bytes:
        """The picture as a file's bytes (PNG where it is an array)."""
        if isinstance(self.source, bytes):
            return self.source
        if isinstance(self.source, Path):
            try:
                if self.source.exists() and not self.source.is_file():  # a pipe would be waited for
                    raise DataError(f"cannot read the picture {self.source}: it is no file")
                return self.source.read_bytes()
            except OSError as error:
                raise DataError(f"cannot read the picture {self.source}: {error.strerror or error}") from error
        buffer = io.BytesIO()
        PIL.Image.fromarray(self.source).save(buffer, format="PNG")
        return buffer.getvalue()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as seen, after EXIF rotation; reads only the header."""
        if isinstance(self.source, np.ndarray):
            return self.source.shape[1], self.source.shape[0]
        return decoding.size(self._file(), self.name)

    def decode(self, at_least: int | None = None) -> PIL.Image.Image:
        """The picture as RGB.

        at_least: the shorter side that the caller needs, in pixels. A JPEG may then be decoded at 1/2, 1/4 or 1/8 of
        its size, never below what is needed; this is much faster and differs by a few grey levels after resizing.
        Without it the decoding is exact.
        """
        if isinstance(self.source, np.ndarray):
            return PIL.Image.fromarray(self.source)
        return decoding.decode(self._file(), self.name, at_least)

    @property
    def is_decoded(self) -> bool:
        """Whether the picture was given as an array."""
        return isinstance(self.source, np.ndarray)

    def pixels_uint8(self) -> NDArray[np.uint8]:
        """The picture's pixels, (H, W, 3) uint8: the array that it is, or its exact decoding."""
        return self.source if isinstance(self.source, np.ndarray) else np.asarray(self.decode())

    def jpeg(self) -> decoding.Jpeg | None:
        """The picture if it is a JPEG that can be decoded at a reduced size, with its header read; else None."""
        return None if isinstance(self.source, np.ndarray) else decoding.jpeg(self.encoded(), self.name)

    def _file(self) -> Path | bytes:
        """The path or the bytes that Pillow opens; of a path Pillow reads no more than it needs, such as a header."""
        return self.source if isinstance(self.source, Path) else self.encoded()
