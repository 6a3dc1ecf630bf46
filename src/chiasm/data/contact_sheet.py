"""Many samples on one page: large pictures with their captions, to see at a glance what a source holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import PIL.Image
from PIL import ImageDraw, ImageFont

from chiasm.data.sample import Box, Sample, Text, Video
from chiasm.errors import DataError

RGB = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_PAGE: RGB = (244, 242, 238)
_CARD: RGB = (255, 255, 255)
_EDGE: RGB = (224, 220, 213)
_INK: RGB = (45, 45, 50)
_MARKS: tuple[RGB, ...] = (  # colours of boxes and their phrases, all dark enough to be read on white
    (196, 40, 52),
    (23, 104, 172),
    (26, 127, 72),
    (140, 69, 168),
    (178, 92, 0),
    (0, 128, 136),
    (170, 44, 120),
    (92, 92, 20),
)
_GAP = 16  # pixels between cards and around the page
_PADDING = 12  # pixels between a card's edge and what it holds
_LEADING = 1.32  # line height relative to the size of the letters
_MOST_LINES = 8


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    colour: RGB


@dataclass(frozen=True, slots=True)
class _Card:
    image: PIL.Image.Image | None
    lines: tuple[tuple[_Word, ...], ...]


def contact_sheet(
    samples: Iterable[Sample], columns: int = 6, width: int = 1600, captions: bool = True, boxes: bool = False
) -> PIL.Image.Image:
    """Draws the samples of any source in rows of cards, each with its first picture.

    columns: cards in a row. width: of the page, in pixels; its height follows.
    captions: whether the first caption (the texts, where a sample has none) stands below each picture.
    boxes: whether boxes are drawn, each in a colour of its own that its phrase in the caption has too.
    Raises DataError for a page too narrow for its columns and where there is no sample.
    """
    inner = (width - _GAP * (columns + 1)) // columns - 2 * _PADDING if columns > 0 else 0
    if inner < 32:
        raise DataError(f"a page of {width} pixels is too narrow for {columns} columns; make it wider or take fewer")
    size = max(11, min(17, inner // 17))
    cards = [_card(sample, inner, size, captions, boxes) for sample in samples]
    if not cards:
        raise DataError("a contact sheet needs at least one sample; the source is empty")
    rows = [cards[start : start + columns] for start in range(0, len(cards), columns)]
    heights = [max(_height(card, size) for card in row) for row in rows]
    page = PIL.Image.new("RGB", (width, sum(heights) + _GAP * (len(rows) + 1)), _PAGE)
    draw = ImageDraw.Draw(page)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, card in enumerate(row):
            left = _GAP + column * (inner + 2 * _PADDING + _GAP)
            _paint(page, draw, card, (left, top, left + inner + 2 * _PADDING, top + height), size)
        top += height + _GAP
    return page


def drawn(sample: Sample, width: int, boxes: bool = False) -> PIL.Image.Image | None:
    """The first picture of a sample, `width` pixels wide and at most as high, with its boxes; None without pictures."""
    return _drawn(sample, width, max(11, min(17, width // 17)), boxes)


def _drawn(sample: Sample, width: int, size: int, boxes: bool) -> PIL.Image.Image | None:
    image = _image(sample, width)
    if image is not None and boxes:
        _draw_boxes(image, [box for box in sample.boxes if box.image == 0], size)
    return image


def _card(sample: Sample, width: int, size: int, captions: bool, boxes: bool) -> _Card:
    shown = [box for box in sample.boxes if box.image == 0] if boxes else []
    image = _drawn(sample, width, size, boxes)
    lines = _lines(_words(_caption(sample), shown), width, size) if captions else ()
    return _Card(image, lines)


def _image(sample: Sample, width: int) -> PIL.Image.Image | None:
    """The first picture, or the first frame of the first clip, as wide as the card and at most as high as wide."""
    part = next((part for part in sample.parts if not isinstance(part, Text)), None)
    if part is None:
        return None
    image = (part.images[0] if isinstance(part, Video) else part).decode()
    scale = min(width / image.width, width / image.height)
    if scale >= 2:  # small pictures are shown as the pixels they are, not blurred
        whole = int(scale)
        image = image.resize((image.width * whole, image.height * whole), PIL.Image.Resampling.NEAREST)
    else:
        extent = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(extent, PIL.Image.Resampling.LANCZOS)
    return image


def _draw_boxes(image: PIL.Image.Image, boxes: Sequence[Box], size: int) -> None:
    draw = ImageDraw.Draw(image)
    for mark, box in zip(_marks(boxes), boxes, strict=True):
        x0, y0, x1, y1 = (
            round(corner * (extent - 1)) for corner, extent in zip(box.corners, image.size * 2, strict=True)
        )
        draw.rectangle((x0, y0, x1, y1), outline=mark, width=max(2, size // 6))


def _marks(boxes: Sequence[Box]) -> list[RGB]:
    """A colour for each box; boxes of one phrase share theirs."""
    phrases = list(dict.fromkeys((box.span, box.phrase) for box in boxes))
    return [_MARKS[phrases.index((box.span, box.phrase)) % len(_MARKS)] for box in boxes]


def _caption(sample: Sample) -> str:
    return sample.captions[0] if sample.captions else " ".join(text.text for text in sample.texts)


def _words(caption: str, boxes: Sequence[Box]) -> list[_Word]:
    """The words of a caption, those of a box's phrase in its colour; phrases that it does not hold follow it."""
    marked = [(box.span, mark) for mark, box in zip(_marks(boxes), boxes, strict=True) if box.span is not None]
    words, start = [], 0
    for text in caption.split():
        start = caption.index(text, start)
        inside = (mark for (first, last), mark in marked if first <= start < last)
        words.append(_Word(text, next(inside, _INK)))
        start += len(text)
    loose = {box.phrase: mark for mark, box in zip(_marks(boxes), boxes, strict=True) if box.span is None}
    return words + [_Word(text, mark) for phrase, mark in loose.items() for text in phrase.split()]


def _lines(words: Sequence[_Word], width: int, size: int) -> tuple[tuple[_Word, ...], ...]:
    """The words in lines no wider than the card, cut with an ellipsis after a few."""
    font, space = _font(size), _font(size).getlength(" ")
    lines: list[list[_Word]] = []
    used = 0.0
    for word in words:
        length = font.getlength(word.text)
        if not lines or used + space + length > width:
            lines.append([])
            used = -space
        lines[-1].append(word)
        used += space + length
    if len(lines) > _MOST_LINES:
        lines = lines[:_MOST_LINES]
        lines[-1][-1] = _Word("…", _INK)
    return tuple(tuple(line) for line in lines)


def _height(card: _Card, size: int) -> int:
    text = round(len(card.lines) * size * _LEADING)
    image = card.image.height if card.image is not None else 0
    return image + text + _PADDING * (3 if card.lines and card.image is not None else 2)


def _paint(
    page: PIL.Image.Image, draw: ImageDraw.ImageDraw, card: _Card, edges: tuple[int, int, int, int], size: int
) -> None:
    left, top, right, _ = edges
    draw.rounded_rectangle(edges, radius=8, fill=_CARD, outline=_EDGE)
    y = float(top + _PADDING)
    if card.image is not None:
        page.paste(card.image, ((left + right - card.image.width) // 2, round(y)))
        y += card.image.height + _PADDING
    font = _font(size)
    for line in card.lines:
        x = float(left + _PADDING)
        for word in line:
            draw.text((x, y), word.text, fill=word.colour, font=font)
            x += font.getlength(word.text + " ")
        y += size * _LEADING


@lru_cache(maxsize=8)
def _font(size: int) -> Font:
    return ImageFont.load_default(size)
