"""What each shape looks like: outlines in the unit square, and masks of them at any size in pixels."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

Points = NDArray[np.float64]  # (N, 2), x to the right and y down

HOLE = 0.62  # the hole of a ring or a frame, relative to its width
_FINE = 4  # masks are drawn this many times larger, then averaged, which makes their edges smooth
_RIM = 0.5  # units around a shape that stay free of the marks of its texture
_FONT_SIZE = 96  # letters are drawn once at this size, in pixels, and scaled to their box
_TURN = np.linspace(0, 2 * np.pi, 96, endpoint=False)


def _circle(x: float = 0.5, y: float = 0.5, radius: float = 0.5) -> Points:
    return np.stack([x + radius * np.cos(_TURN), y + radius * np.sin(_TURN)], axis=1)


def _regular(corners: int, inner: float = 1.0) -> Points:
    """A regular polygon with a corner at the top, or a star where every second corner stands at `inner`."""
    angle = np.arange(2 * corners) * np.pi / corners
    radius = np.where(np.arange(2 * corners) % 2 == 0, 1.0, inner)
    points = np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1)
    return points if inner != 1 else points[::2]


def _heart() -> Points:
    x = 16 * np.sin(_TURN) ** 3
    y = 13 * np.cos(_TURN) - 5 * np.cos(2 * _TURN) - 2 * np.cos(3 * _TURN) - np.cos(4 * _TURN)
    return np.stack([x, -y], axis=1)


def _moon() -> Points:
    outer = np.linspace(0.2 * np.pi, 1.8 * np.pi, 64)
    tip = np.array([np.cos(outer[0]), np.sin(outer[0])])
    centre = 0.5  # of the circle that is cut out, to the right of the moon's own
    half = np.arctan2(tip[1], tip[0] - centre)
    inner = np.linspace(2 * np.pi - half, half, 48)
    radius = np.hypot(tip[0] - centre, tip[1])
    bite = np.stack([centre + radius * np.cos(inner), radius * np.sin(inner)], axis=1)
    return np.concatenate([np.stack([np.cos(outer), np.sin(outer)], axis=1), bite])


def _flower() -> Points:
    radius = 1 + 0.24 * np.cos(6 * _TURN)
    return np.stack([radius * np.cos(_TURN), radius * np.sin(_TURN)], axis=1)


def _drop() -> Points:
    x = np.sin(_TURN) * np.sin(_TURN / 2) ** 1.6
    return np.stack([x, -np.cos(_TURN)], axis=1)


def _polygon(*corners: tuple[float, float]) -> Points:
    return np.array(corners, dtype=np.float64)


def _rectangle(x0: float, y0: float, x1: float, y1: float) -> Points:
    return _polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))


_SQUARE = _rectangle(0, 0, 1, 1)
_MARGIN = (1 - HOLE) / 2

# Each shape is a union of solid outlines less a union of holes; the union is scaled to touch its box on all sides.
_OUTLINES: dict[str, tuple[list[Points], list[Points]]] = {
    "circle": ([_circle()], []),
    "oval": ([_circle()], []),
    "ring": ([_circle()], [_circle(radius=HOLE / 2)]),
    "square": ([_SQUARE], []),
    "rectangle": ([_SQUARE], []),
    "frame": ([_SQUARE], [_rectangle(_MARGIN, _MARGIN, 1 - _MARGIN, 1 - _MARGIN)]),
    "triangle": ([_polygon((0.5, 0), (1, 1), (0, 1))], []),
    "star": ([_regular(5, inner=0.45)], []),
    "heart": ([_heart()], []),
    "cross": ([_rectangle(0.33, 0, 0.67, 1), _rectangle(0, 0.33, 1, 0.67)], []),
    "diamond": ([_regular(4)], []),
    "hexagon": ([_regular(6)[:, ::-1]], []),
    "arrow": ([_polygon((0, 0.29), (0.5, 0.29), (0.5, 0), (1, 0.5), (0.5, 1), (0.5, 0.71), (0, 0.71))], []),
    "moon": ([_moon()], []),
    "house": (
        [_polygon((0.5, 0), (1, 0.46), (0.88, 0.46), (0.88, 1), (0.12, 1), (0.12, 0.46), (0, 0.46))],
        [_rectangle(0.4, 0.64, 0.6, 1)],
    ),
    "tree": (
        [
            _polygon((0.5, 0), (0.88, 0.42), (0.12, 0.42)),
            _polygon((0.5, 0.22), (1, 0.78), (0, 0.78)),
            _rectangle(0.38, 0.7, 0.62, 1),
        ],
        [],
    ),
    "flower": ([_flower()], [_circle(radius=0.11)]),
    "drop": ([_drop()], []),
    "cloud": (
        [
            _circle(0.2, 0.66, 0.2),
            _circle(0.42, 0.4, 0.27),
            _circle(0.66, 0.46, 0.22),
            _circle(0.82, 0.67, 0.19),
            _rectangle(0.2, 0.6, 0.82, 0.86),
        ],
        [],
    ),
    "crown": ([_polygon((0, 1), (0, 0.12), (0.27, 0.52), (0.5, 0), (0.73, 0.52), (1, 0.12), (1, 1))], []),
}


@cache
def outline(shape: str) -> tuple[list[Points], list[Points]]:
    """The solid outlines and the holes of a shape, in the unit square, which the solid ones touch on all sides."""
    solid, holes = _OUTLINES[shape]
    points = np.concatenate(solid)
    low, high = points.min(axis=0), points.max(axis=0)
    return [(distance - low) / (high - low) for distance in solid], holes


@lru_cache(maxsize=4096)
def mask(shape: str, width: int, height: int) -> Image.Image:
    """How much of each pixel the shape covers, 0 to 255, as a picture of mode L."""
    return _fine_mask(shape, width, height).reduce(_FINE)


@lru_cache(maxsize=4096)
def marked_mask(shape: str, texture: str, width: int, height: int, unit: float) -> Image.Image:
    """The part of a shape that the marks of its texture cover. unit: the size of a unit of the grid in pixels.

    A rim stays free of marks, so that a striped shape keeps its outline before any background.
    """
    rim = round(_RIM * unit * _FINE)
    framed = ImageOps.expand(_fine_mask(shape, width, height), rim, 0)  # the rim follows the edges of the box too
    blurred = framed.filter(ImageFilter.BoxBlur(rim))  # stays full where all pixels around are
    inside = ImageOps.crop(blurred.point([0] * 255 + [255]), rim)
    return ImageChops.multiply(inside, _marks(texture, width, height, unit)).reduce(_FINE)


@lru_cache(maxsize=1024)
def written_mask(text: str, width: int, height: int) -> Image.Image:
    """Bold capitals that fill the box, as a mask."""
    font = ImageFont.load_default(_FONT_SIZE)
    bold = _FONT_SIZE // 20  # strokes of one pixel would fade where letters are small
    x0, y0, x1, y1 = (round(edge) for edge in font.getbbox(text.upper(), stroke_width=bold))
    large = Image.new("L", (x1 - x0, y1 - y0), 0)
    ImageDraw.Draw(large).text((-x0, -y0), text.upper(), fill=255, font=font, stroke_width=bold)
    return large.resize((width, height), Image.Resampling.BOX, box=large.getbbox())


def _fine_mask(shape: str, width: int, height: int) -> Image.Image:
    large = Image.new("L", (width * _FINE, height * _FINE), 0)
    draw = ImageDraw.Draw(large)
    scale = np.array([width * _FINE, height * _FINE])
    for layer, ink in zip(outline(shape), (255, 0), strict=True):
        for points in layer:
            draw.polygon([(x, y) for x, y in points * scale - 0.5], fill=ink)  # whole numbers are pixel centres
    return large


def _marks(texture: str, width: int, height: int, unit: float) -> Image.Image:
    """Where the marks of a texture lie in a box; they start from its centre, so that small shapes show them too."""
    step = 1 / (unit * _FINE)
    y, x = np.mgrid[: height * _FINE, : width * _FINE].astype(np.float64)
    x, y = (x + 0.5 - width * _FINE / 2) * step, (y + 0.5 - height * _FINE / 2) * step
    if texture == "striped":
        marks = ((x + y) / np.sqrt(2) + 1) % 4.2 < 2.0
    elif texture == "checkered":
        marks = (np.floor(x / 3.2) + np.floor(y / 3.2)) % 2 == 0
    else:  # dotted: rows shifted by half a step
        row = np.floor(y / 3.5 + 0.5)
        across = (x / 4.2 + 0.5 + 0.5 * (row % 2)) % 1 - 0.5
        marks = np.hypot(across * 4.2, y - row * 3.5) < 1.3
    return Image.fromarray((marks * 255).astype(np.uint8))
