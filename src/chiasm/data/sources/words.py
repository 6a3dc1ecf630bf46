"""Pages with a few rendered words, made from (seed, index) without any file: to learn to read small letters from.

The letters are drawn at random, so no word can be guessed from another or from the question: who does not see them
earns nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageDraw, ImageFont

from chiasm.data.image import Image
from chiasm.data.sample import Box, Question, Sample
from chiasm.data.scenes.rng import Rng
from chiasm.data.source import Source
from chiasm.errors import RecipeError

_INK, _PAPER = (0, 90), (190, 255)  # of 255, for each channel
_LINES = ("first", "second", "third", "fourth", "fifth")
_LOOSE = 2  # pixels that aligned words are off at most
_MARGIN = 2  # pixels that stay free around a word


@dataclass(frozen=True)
class Words(Source):
    """One word a line, in Pillow's own font, dark on light.

    A page of one line is asked "what is written?"; one of several, what each line says, which is the kind of question.
    The caption is all that is written, from top to bottom; each word has its box.

    count: how many samples. seed: other seeds give other pages. width, height: of a page in pixels. lines: the fewest
    and the most, up to 5. letters: size of the font in pixels; digits are about 0.7 of it high and 0.6 wide.
    alphabet: what words are made of. length: the fewest and the most letters of a word.
    align: where a word stands in its line: "anywhere" that it fits; or "left", in the middle of the line's height, and
        up to two pixels away from there, so that where a letter stands tells which one of its word it is.
    Raises RecipeError where the longest word or the most lines do not fit on the page.
    """

    count: int
    seed: int = 0
    width: int = 192
    height: int = 64
    lines: tuple[int, int] = (1, 1)
    letters: int = 16
    alphabet: str = "abcdefghijklmnopqrstuvwxyz"
    length: tuple[int, int] = (3, 5)
    align: Literal["anywhere", "left"] = "anywhere"

    def __post_init__(self) -> None:
        if self.count < 0 or self.seed < 0:
            raise RecipeError(f"words: count and seed must not be negative, unlike {self.count} and {self.seed}")
        if not 1 <= self.lines[0] <= self.lines[1] <= len(_LINES):
            raise RecipeError(f"words.lines: give the fewest and the most, 1 to {len(_LINES)}, not {self.lines}")
        if not 1 <= self.length[0] <= self.length[1]:
            raise RecipeError(f"words.length: give the fewest and the most letters of a word, not {self.length}")
        if self.letters < 4 or not self.alphabet.strip() or len(self.alphabet.split()) > 1:
            raise RecipeError("words: letters must be 4 pixels or more, and the alphabet hold no blanks")
        widest = max(self._size(letter * self.length[1])[0] for letter in self.alphabet)
        if widest > self.width or self.lines[1] * self._line > self.height:
            raise RecipeError(
                f"words of {self.length[1]} letters of {self.letters} pixels in {self.lines[1]} lines need a page of "
                f"{widest}x{self.lines[1] * self._line} pixels; it has {self.width}x{self.height}"
            )

    @classmethod
    def to_look_at(cls) -> Mapping[str, object]:
        return {"count": 1000}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(f"there are {self.count} pages; there is no number {index}")
        rng = Rng(self.seed, index)
        words = [self._word(rng) for _ in range(rng.integer(*self.lines))]
        pixels, boxes = self._page(words, rng)
        named = zip(_LINES, words, strict=False)
        questions = tuple(Question(f"what is the {line} word?", word, line) for line, word in named)
        if len(words) == 1:
            questions = (Question("what is written?", words[0], "one line"),)
        text = " ".join(words)
        meta = {"lines": len(words)}
        return Sample(f"words/{self.seed}/{index}", (Image(pixels),), (text,), boxes, questions, meta=meta)

    def _word(self, rng: Rng) -> str:
        return "".join(rng.choice(self.alphabet) for _ in range(rng.integer(*self.length)))

    def _page(self, words: list[str], rng: Rng) -> tuple[NDArray[np.uint8], tuple[Box, ...]]:
        """The page, (height, width, 3), and where each word stands. Lines share the page evenly."""
        ink, paper = (tuple(rng.integer(*limits) for _ in range(3)) for limits in (_INK, _PAPER))
        page = PIL.Image.new("RGB", (self.width, self.height), paper)
        pen, band = ImageDraw.Draw(page), self.height // len(words)
        boxes = []
        for line, word in enumerate(words):
            width, height = self._size(word)
            x, y = self._position(self.width - width, band - self._line, rng)
            y += line * band
            pen.text((x + _MARGIN, y + _MARGIN), word, fill=ink, font=self._font)
            corners = (x / self.width, y / self.height, (x + width) / self.width, (y + height) / self.height)
            boxes.append(Box(corners, word))
        return np.array(page), tuple(boxes)

    def _position(self, wide: int, high: int, rng: Rng) -> tuple[int, int]:
        """Where a word begins in its line. wide, high: how many pixels it leaves free there."""
        if self.align == "anywhere":
            return rng.integer(0, wide), rng.integer(0, high)
        middle = high // 2
        return rng.integer(0, min(wide, _LOOSE)), rng.integer(max(0, middle - _LOOSE), min(high, middle + _LOOSE))

    def _size(self, word: str) -> tuple[int, int]:
        """Width and height in pixels that a word needs, from where its line begins."""
        _, _, right, bottom = self._font.getbbox(word)
        return int(right) + 1 + 2 * _MARGIN, min(int(bottom) + 1 + 2 * _MARGIN, self._line)

    @cached_property
    def _line(self) -> int:
        """Height of a line in pixels: what reaches lowest still fits."""
        return int(self._font.getbbox("Ágjpqy|")[3]) + 1 + 2 * _MARGIN

    @cached_property
    def _font(self) -> ImageFont.FreeTypeFont:
        font = ImageFont.load_default(self.letters)
        assert isinstance(font, ImageFont.FreeTypeFont)  # the one without sizes is given only where none is asked for
        return font
