"""How encoded pictures become RGB: Pillow, which is the measure, and libjpeg-turbo at a reduced size, which is fast.

Both are given the same pictures and refuse the same ones: what the fast decoder does not read without a warning goes
to Pillow, which decides."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from chiasm.errors import DataError, MissingExtra

MAX_PIXELS = 89_478_485  # as Pillow: a quarter of a GiB of RGB; a stranger's header may claim more than memory holds
_ORIENTATION = 0x0112
_HEADER = 65_536  # bytes within which the header of a PNM ends; Pillow reads it byte by byte, comments included

# What is a picture here. Pillow opens more: some start programs (EPS: Ghostscript) or ask for a handler, others are
# films, containers and data. What has another format is refused, whatever its file is called.
FORMATS = (
    *("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000"),  # the frequent ones are tried first
    *(
        "BLP",
        "CUR",
        "DCX",
        "DDS",
        "DIB",
        "FLI",
        "FTEX",
        "ICNS",
        "ICO",
        "IM",
        "MSP",
        "PCX",
        "PIXAR",
        "PSD",
        "QOI",
        "SGI",
    ),
    *("SPIDER", "SUN", "TGA", "XBM", "XPM"),
)

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
_TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


class TooLarge(DataError):
    """A picture whose header claims more pixels than are allowed."""


def size(source: Path | bytes, name: str) -> tuple[int, int]:
    """(width, height) of a picture as seen, after EXIF rotation. Raises DataError, calling it by `name`."""
    with _opened(source, name) as image:
        width, height = image.size
        return (height, width) if _orientation(image) in _TURNED else (width, height)


def format_of(source: Path | bytes, name: str) -> str:
    """The format of a picture as Pillow calls it, such as "JPEG". Raises DataError, calling the picture by `name`."""
    with _opened(source, name) as image:
        return image.format or ""


def decode(source: Path | bytes, name: str, at_least: int | None = None) -> PIL.Image.Image:
    """The picture as RGB, upright, by Pillow. at_least: see Image.decode. Raises DataError for a broken one."""
    with _opened(source, name) as image:
        if at_least is not None and image.format == "JPEG":
            scale = at_least / min(image.size)
            if scale < 1:  # draft picks the smallest DCT scale that is not below the size asked for
                width, height = image.size
                image.draft("RGB", (int(width * scale) + 1, int(height * scale) + 1))
        # Read before the pixels: a TIFF comes upright from those. Not Pillow's exif_transpose, which writes the other
        # entries anew and fails on odd ones that no viewer minds.
        turn = _TURNS.get(_orientation(image))
        image.load()
        return _to_rgb(image if turn is None else image.transpose(turn))


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
    """A picture with its header read and its size allowed; what Pillow raises on broken files becomes DataError.

    That may be anything, for it has decoders of forty formats: struct.error, TypeError, KeyError, RuntimeError, ...
    """
    _check_header(source, name)
    try:
        image = PIL.Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=_known())
    except FileNotFoundError as error:
        raise DataError(f"there is no picture at {name}") from error
    except PIL.Image.DecompressionBombError as error:
        raise TooLarge(f"the picture {name} is too large: {error}") from error
    except PIL.UnidentifiedImageError as error:
        raise DataError(f"{name} is not a picture that can be read: it has none of the formats of pictures") from error
    except Exception as error:
        raise DataError(f"{name} is not a picture that can be read: {_why(error)}") from error
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise TooLarge(
                f"the picture {name} claims {image.width}x{image.height} pixels, more than the {MAX_PIXELS:,} "
                "allowed; scale it down first"
            )
        try:
            yield image
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"the picture {name} is broken: {_why(error)}") from error


@cache
def _known() -> tuple[str, ...]:
    """Those formats that this build of Pillow has."""
    PIL.Image.init()
    return tuple(name for name in FORMATS if name in PIL.Image.OPEN)


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__


def _check_header(source: Path | bytes, name: str) -> None:
    """Raises DataError for what is no file (a pipe would be waited for), and for a PNM whose header does not end."""
    try:
        if isinstance(source, Path) and source.exists() and not source.is_file():
            raise DataError(f"{name} is not a picture that can be read: it is no file")
        start = source[:_HEADER] if isinstance(source, bytes) else _start(source)
    except OSError as error:
        raise DataError(f"{name} is not a picture that can be read: {error.strerror or error}") from error
    if start[:1] == b"P" and start[1:2].isdigit() and len(start) == _HEADER:
        words = b" ".join(line.partition(b"#")[0] for line in start.splitlines()).split()
        if len(words) < 4:
            raise DataError(f"{name} is not a picture that can be read: its header is longer than {_HEADER:,} bytes")


def _start(path: Path) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as file:
        head = file.read(2)
        return head + file.read(_HEADER - 2) if head[:1] == b"P" else head


def _orientation(image: PIL.Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1, which is upright, where there is none, or none can be read.

    A TIFF has its size and its pixels turned by Pillow already.
    """
    if image.format == "TIFF":
        return 1
    try:
        found = image.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001  # odd entries raise anything; viewers, too, then show what is stored
        return 1
    return found if found in _UPRIGHT else 1


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode == "RGB":
        return image if "transparency" not in image.info else _on_white(image.convert("RGBA"))
    if image.mode.startswith("I"):  # 16-bit greys open as I;16 or I
        pixels_int64 = np.asarray(image, dtype=np.int64)
        grey_uint8 = (pixels_int64.clip(0, 65535) // 257).astype(np.uint8)
        if isinstance(level := image.info.get("transparency"), int):  # the one level that is not there
            grey_uint8[pixels_int64 == level] = 255
        return PIL.Image.fromarray(grey_uint8).convert("RGB")
    if image.mode == "F":
        return PIL.Image.fromarray(_levels(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _on_white(image.convert("RGBA"))
    return image.convert("RGB")


def _levels(pixels_float32: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Grey levels of floats, whose white is 1, 255 or 65,535, whichever none goes beyond; else the brightest."""
    pixels = np.nan_to_num(pixels_float32.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0).clip(0)
    most = pixels.max(initial=0.0)
    white = next((white for white in (1.0, 255.0, 65535.0) if most <= white), most)
    return np.rint(pixels / white * 255).astype(np.uint8)


def _on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    white = PIL.Image.new("RGBA", image.size, (255, 255, 255, 255))
    white.alpha_composite(image)
    return white.convert("RGB")
