"""A picture that is decoded when it is needed, once, at the size needed, always to RGB."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from chiasm.errors import DataError

MAX_PIXELS = 89_478_485  # as Pillow: a quarter of a GiB of RGB; a stranger's header may claim more than memory holds
_ROTATED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112


class Image:
    """A picture given as a path, as encoded bytes, or as an (H, W, 3) uint8 array; nothing is read until asked.

    Every mode becomes RGB the same way everywhere: EXIF rotation is applied, transparency is laid on white, 16-bit
    greys are scaled to 8, of an animation the first frame is taken. Raises DataError, naming the picture, if it is
    missing, broken, or larger than MAX_PIXELS.
    """

    __slots__ = ("_key", "source")

    def __init__(self, source: str | Path | bytes | NDArray[np.uint8]) -> None:
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

    @property
    def name(self) -> str:
        """How errors call this picture: its path, or what it is where it has none."""
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
        with self._open() as picture:
            width, height = picture.size
            rotated = picture.getexif().get(_ORIENTATION) in _ROTATED
        return (height, width) if rotated else (width, height)

    def decode(self, at_least: int | None = None) -> PIL.Image.Image:
        """The picture as RGB.

        at_least: the shorter side that the caller needs, in pixels. A JPEG may then be decoded at 1/2, 1/4 or 1/8 of
        its size, never below what is needed; this is much faster and differs by a few grey levels after resizing.
        Without it the decoding is exact.
        """
        if isinstance(self.source, np.ndarray):
            return PIL.Image.fromarray(self.source)
        with self._open() as picture:
            if at_least is not None and picture.format == "JPEG":
                scale = at_least / min(picture.size)
                if scale < 1:  # draft picks the smallest DCT scale that is not below the size asked for
                    width, height = picture.size
                    picture.draft("RGB", (int(width * scale) + 1, int(height * scale) + 1))
            try:
                picture.load()
                return _to_rgb(PIL.ImageOps.exif_transpose(picture))
            except (OSError, ValueError, SyntaxError, MemoryError) as error:  # what Pillow raises on broken files
                raise DataError(f"the picture {self.name} is broken: {error}") from error

    def _open(self) -> PIL.Image.Image:
        try:
            picture = PIL.Image.open(self.source if isinstance(self.source, Path) else io.BytesIO(self.encoded()))
        except FileNotFoundError as error:
            raise DataError(f"there is no picture at {self.name}") from error
        except (PIL.UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            raise DataError(f"{self.name} is not a picture that can be read: {error}") from error
        except PIL.Image.DecompressionBombError as error:
            raise DataError(f"the picture {self.name} is too large: {error}") from error
        if picture.width * picture.height > MAX_PIXELS:
            width, height = picture.size
            picture.close()
            raise DataError(
                f"the picture {self.name} claims {width}x{height} pixels, more than the {MAX_PIXELS:,} allowed; "
                "scale it down first"
            )
        return picture


def _to_rgb(picture: PIL.Image.Image) -> PIL.Image.Image:
    if picture.mode == "RGB":
        return picture if "transparency" not in picture.info else _on_white(picture.convert("RGBA"))
    if picture.mode.startswith("I"):  # 16-bit greys open as I;16 or I
        levels = np.asarray(picture, dtype=np.int64)
        return PIL.Image.fromarray((levels.clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        return _on_white(picture.convert("RGBA"))
    return picture.convert("RGB")


def _on_white(picture: PIL.Image.Image) -> PIL.Image.Image:
    white = PIL.Image.new("RGBA", picture.size, (255, 255, 255, 255))
    white.alpha_composite(picture)
    return white.convert("RGB")
