"""How encoded pictures become RGB: Pillow, which is the measure, and libjpeg-turbo at a reduced size, which is fast.

Both are given the same pictures and refuse the same ones: what the fast decoder does not read without a warning goes
to Pillow, which decides."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from chiasm.errors import DataError, MissingExtra

MAX_PIXELS = 89_478_485  # as Pillow: a quarter of a GiB of RGB; a stranger's header may claim more than memory holds
_ORIENTATION = 0x0112

# What shows a picture upright, by its EXIF orientation.
_UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: pixels[::-1].transpose(1, 0, 2),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: pixels[:, ::-1].transpose(1, 0, 2),
}
_TURNED = (5, 6, 7, 8)  # orientations that swap width and height


def size(source: Path | bytes, name: str) -> tuple[int, int]:
    """(width, height) of a picture as seen, after EXIF rotation. Raises DataError, calling it by `name`."""
    with _opened(source, name) as image:
        width, height = image.size
        return (height, width) if _orientation(image) in _TURNED else (width, height)


def decode(source: Path | bytes, name: str, at_least: int | None = None) -> PIL.Image.Image:
    """The picture as RGB, upright, by Pillow. at_least: see Image.decode. Raises DataError for a broken one."""
    with _opened(source, name) as image:
        if at_least is not None and image.format == "JPEG":
            scale = at_least / min(image.size)
            if scale < 1:  # draft picks the smallest DCT scale that is not below the size asked for
                width, height = image.size
                image.draft("RGB", (int(width * scale) + 1, int(height * scale) + 1))
        image.load()
        PIL.ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)


@dataclass(frozen=True, slots=True)
class Jpeg:
    """A JPEG of 8-bit grey or colour, whose header is read. size: (width, height) as seen, after EXIF rotation."""

    content: bytes
    name: str
    size: tuple[int, int]
    orientation: int

    def pixels_uint8(self, eighths: int) -> NDArray[np.uint8]:
        """The decoded pixels, (H, W, 3) uint8, upright, at 1/8, 2/8, 4/8 or 8/8 of the size, rounded up.

        At 8/8 they are Pillow's own, as long as both use libjpeg-turbo. A picture that is broken only a little comes
        at its whole size, or as the DataError that Pillow's decoder ends in. Raises MissingExtra without simplejpeg.
        """
        simplejpeg = decoder()
        width, height = self.size[::-1] if self.orientation in _TURNED else self.size
        least = {"min_width": -(-width * eighths // 8), "min_height": -(-height * eighths // 8)}
        try:
            pixels_uint8 = simplejpeg.decode_jpeg(self.content, "RGB", **least)
        except ValueError:  # it is strict: bytes that are missing are an error, and so are some that are merely odd
            return np.asarray(decode(self.content, self.name))
        return _UPRIGHT[self.orientation](pixels_uint8) if self.orientation in _UPRIGHT else pixels_uint8


def jpeg(content: bytes, name: str) -> Jpeg | None:
    """The picture if it is a JPEG that decoders read alike; None for CMYK and other formats, which are Pillow's.

    Raises DataError for a JPEG whose header is broken, or claims too many pixels.
    """
    if not content.startswith(b"\xff\xd8"):
        return None
    with _opened(content, name) as image:
        if image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L"):  # MPO: several, the first counts
            return None
        width, height = image.size
        orientation = _orientation(image)
        return Jpeg(content, name, (height, width) if orientation in _TURNED else (width, height), orientation)


def decoder() -> Any:
    """The package that decodes JPEGs at a reduced size. Raises MissingExtra where it is not installed."""
    try:
        import simplejpeg
    except ModuleNotFoundError as error:
        raise MissingExtra("simplejpeg", "data", "decoding: fast") from error
    return simplejpeg


@contextmanager
def _opened(source: Path | bytes, name: str) -> Iterator[PIL.Image.Image]:
    """A picture with its header read and its size allowed; what Pillow raises on broken files becomes DataError."""
    try:
        image = PIL.Image.open(source if isinstance(source, Path) else io.BytesIO(source))
    except FileNotFoundError as error:
        raise DataError(f"there is no picture at {name}") from error
    except PIL.Image.DecompressionBombError as error:
        raise DataError(f"the picture {name} is too large: {error}") from error
    except (PIL.UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{name} is not a picture that can be read: {error}") from error
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise DataError(
                f"the picture {name} claims {image.width}x{image.height} pixels, more than the {MAX_PIXELS:,} "
                "allowed; scale it down first"
            )
        try:
            yield image
        except (OSError, ValueError, SyntaxError, MemoryError) as error:
            raise DataError(f"the picture {name} is broken: {error}") from error


def _orientation(image: PIL.Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1, which is upright, where there is none."""
    found = image.getexif().get(_ORIENTATION)
    return found if found in _UPRIGHT else 1


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode == "RGB":
        return image if "transparency" not in image.info else _on_white(image.convert("RGBA"))
    if image.mode.startswith("I"):  # 16-bit greys open as I;16 or I
        pixels_int64 = np.asarray(image, dtype=np.int64)
        return PIL.Image.fromarray((pixels_int64.clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _on_white(image.convert("RGBA"))
    return image.convert("RGB")


def _on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    white = PIL.Image.new("RGBA", image.size, (255, 255, 255, 255))
    white.alpha_composite(image)
    return white.convert("RGB")
