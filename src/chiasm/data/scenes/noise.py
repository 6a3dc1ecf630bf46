"""Noise that is planted on purpose, so that curation can be judged by what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from chiasm.data.scenes.languages import LANGUAGES
from chiasm.data.scenes.looks import Look
from chiasm.data.scenes.rng import Rng
from chiasm.errors import RecipeError

BOILERPLATE = (
    "all rights reserved",
    "buy now with free shipping",
    "click here to see more",
    "image not available",
    "download free stock photo",
    "sign in to leave a comment",
    "img {number}",
    "dsc{number}.jpg",
    "page {number} of our new catalogue",
    "best price guaranteed, order today",
    "related posts you may like",
    "photo by admin, posted {number} days ago",
)
_LETTERS = 7  # the least height of a line, in pixels, at which letters can be read


@dataclass(frozen=True)
class Noise:
    """Shares of samples that are spoiled, each 0 to 1, together at most 1. A sample is spoiled in one way only.

    mismatched: the picture is that of a scene with none of the things that the texts tell of.
    duplicates: the sample is that of an earlier index again, the picture half of the time a little paler.
    boilerplate: the only caption says nothing of the picture.
    wrong_language: the only caption is German, French or Spanish.
    written: one of the captions is written into the picture.
    Raises RecipeError if a share is negative or if they add up to more than 1.
    """

    mismatched: float = 0.0
    duplicates: float = 0.0
    boilerplate: float = 0.0
    wrong_language: float = 0.0
    written: float = 0.0

    def __post_init__(self) -> None:
        shares = self.shares
        if min(shares.values()) < 0 or sum(shares.values()) > 1 + 1e-9:
            raise RecipeError(f"noise: shares must not be negative and must add up to at most 1, unlike {shares}")

    @property
    def shares(self) -> dict[str, float]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def draw(self, rng: Rng) -> str:
        """The kind of noise of one sample, "" for none."""
        number = rng.uniform()
        for kind, share in self.shares.items():
            number -= share
            if number < 0:
                return kind
        return ""


def boilerplate(rng: Rng) -> str:
    """A line that could stand beside any picture on the web."""
    return rng.choice(BOILERPLATE).format(number=rng.integer(2, 9999))


def foreign(rng: Rng, looks: Sequence[Look]) -> str:
    """A caption of a scene in another language."""
    return LANGUAGES[rng.choice(tuple(LANGUAGES))].tell(looks)


def paler(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same picture as a careless copy: other pixels, alike to the eye."""
    return (pixels.astype(np.float32) * 0.93 + 12).astype(np.uint8)


def write(pixels: NDArray[np.uint8], text: str, rng: Rng) -> NDArray[np.uint8]:
    """Writes a text across the picture, white with a dark rim, at its top or its bottom."""
    image = Image.fromarray(pixels)
    size = image.width
    height = max(_LETTERS, size // 8)
    font = _font(height)
    lines = _wrapped(text, font, size - 2)
    top = 1 if rng.chance(0.5) else size - 1 - len(lines) * height
    draw = ImageDraw.Draw(image)
    for i, line in enumerate(lines):
        position = (1, top + i * height)
        draw.text(position, line, fill=(255, 255, 255), font=font, stroke_width=1, stroke_fill=(20, 20, 20))
    return np.array(image)


@lru_cache(maxsize=8)
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(height)


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
