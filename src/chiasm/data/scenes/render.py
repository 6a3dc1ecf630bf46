"""Scenes as pixels: the same scene at any size."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chiasm.data.scenes.placement import GRID
from chiasm.data.scenes.shapes import marked_mask, mask, written_mask
from chiasm.data.scenes.vocabulary import COLOURS, RGB, TONES, Background
from chiasm.data.scenes.world import Scene

_LIGHT = 140  # colours of a higher luma get dark marks, the others light ones
_DARKER, _LIGHTER = 0.62, 0.72  # how far marks go from the colour to black or white
_PATTERN = 0.16  # how far the marks of a background go from its tone to black or white


def render(scene: Scene, size: int) -> NDArray[np.uint8]:
    """The picture of a scene, (size, size, 3)."""
    unit = size / GRID
    canvas = _ground(scene, size)
    for thing in scene.things:
        look = thing.look
        x0, y0, x1, y1 = (round(edge * unit) for edge in thing.corners)
        box, width, height = (x0, y0, x1, y1), x1 - x0, y1 - y0
        colour = COLOURS[look.colour]
        if look.text:
            canvas.paste(colour, box, written_mask(look.text, width, height))
            continue
        canvas.paste(colour, box, mask(look.shape, width, height))
        if look.texture != "plain":
            canvas.paste(_MARKS[look.colour], box, marked_mask(look.shape, look.texture, width, height, unit))
    return np.array(canvas)


def _luma(colour: RGB) -> float:
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _towards(colour: RGB, level: int, share: float) -> RGB:
    red, green, blue = (round(channel + (level - channel) * share) for channel in colour)
    return red, green, blue


_MARKS = {
    name: _towards(colour, 0, _DARKER) if _luma(colour) > _LIGHT else _towards(colour, 255, _LIGHTER)
    for name, colour in COLOURS.items()
}


def _ground(scene: Scene, size: int) -> Image.Image:
    tone = TONES[scene.tone]
    canvas = Image.new("RGB", (size, size), tone)
    if scene.background != "plain":
        x, y = (round(shift * size / GRID) for shift in scene.shift)
        dark = _luma(tone) > _LIGHT
        marks = _towards(tone, 0 if dark else 255, _PATTERN * (0.6 if dark else 1.0))
        canvas.paste(marks, (0, 0, size, size), _pattern(scene.background, size).crop((x, y, x + size, y + size)))
    return canvas


@lru_cache(maxsize=32)
def _pattern(background: Background, size: int) -> Image.Image:
    """A mask of twice the picture's size, so that a picture may begin anywhere in its first quarter."""
    random = np.random.Generator(np.random.PCG64(0))
    y, x = np.mgrid[: 2 * size, : 2 * size] * (GRID / size)
    if background == "gradient":
        level = 0.5 + 0.5 * np.sin((x + 0.6 * y) * (np.pi / 90))
    elif background == "grid":
        level = ((x % 8 < 1) | (y % 8 < 1)).astype(np.float64)
    elif background == "grain":
        level = random.random((2 * size, 2 * size))
    else:
        level = _clutter(random, x, y)
    return Image.fromarray((level * 255).astype(np.uint8))


def _clutter(random: np.random.Generator, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Many small strokes, specks and curls, fainter and smaller than any thing."""
    level = np.zeros_like(x)
    for _ in range(900):
        cx, cy = random.uniform(0, 2 * GRID, 2)
        angle, length, bend = random.uniform(0, np.pi), random.uniform(0.5, 4), random.uniform(-0.15, 0.15)
        along = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        across = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle) - bend * along**2
        stroke = (np.abs(along) < length) & (np.abs(across) < 0.5)
        level[stroke] = random.uniform(0.4, 1)
    return level
