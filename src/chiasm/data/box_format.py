"""How a model writes regions of pictures in its text: one convention a file in `data/box_formats/`.

All lead to and from the one `Box`, whose corners are shares of the picture's width and height. What a reply says is
read or it is not: a box with corners in the wrong order, outside of its range, or half written is kept as unclear."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from chiasm.config import Component
from chiasm.data.sample import Box, GroundedSpan, Sample, Text
from chiasm.errors import DataError

Corners = tuple[float, float, float, float]
Size = tuple[int, int]
Frame = Literal["picture", "square"]

_TINY = 1e-9  # room for the rounding of corners that were moved from one frame to another


@dataclass(frozen=True)
class ParsedText:
    """A reply with its boxes taken out. text: what is left; mentions: the phrases of it that mean regions.

    unclear: pieces of the reply that look like boxes but say none.
    """

    text: str
    grounded_spans: tuple[GroundedSpan, ...]
    unclear: tuple[str, ...] = ()

    @property
    def boxes(self) -> tuple[Box, ...]:
        """All boxes, in order."""
        return tuple(box for mention in self.grounded_spans for box in mention.boxes)


@dataclass(frozen=True)
class BoxFormat(Component, ABC, package="chiasm.data.box_formats", key="boxes"):
    """A convention for writing boxes in text. A subclass is a frozen dataclass; it is saved with the checkpoint.

    frame: what the numbers are shares of: the whole picture, however much of it the layout shows; or the square that
        it becomes by padding its shorter side evenly, which is what LLaVA 1.5 and Shikra see.
    """

    frame: Frame = "picture"

    around: ClassVar[tuple[str, str]] = ("", "")  # what marks a phrase
    run: ClassVar[str]  # the pattern of all boxes of one phrase
    quiet: ClassVar[str] = r"(?!)"  # marks that mean nothing by themselves, and are taken out
    trace: ClassVar[str]  # what is left of boxes that cannot be read

    @property
    def marks(self) -> tuple[str, ...]:
        """Tokens that a learned tokenizer must have, each as one token."""
        return ()

    @abstractmethod
    def write(self, boxes: Sequence[Corners]) -> str:
        """The boxes of one phrase, at least one, their corners in the frame."""

    @abstractmethod
    def parse(self, run: str) -> list[Corners]:
        """The corners that a match of `run` spells, valid or not; [] where it spells none."""

    def mention(self, phrase: str, boxes: Sequence[Corners]) -> str:
        """A phrase with its boxes; the phrase may be empty, and so may be the boxes."""
        before, after = self.around
        named = f"{before}{phrase}{after}" if phrase else ""
        return named + (self.write(boxes) if boxes else "")

    @property
    def entity(self) -> str:
        """The pattern of a phrase with its boxes: groups `words` and `run`."""
        before, after = map(re.escape, self.around)
        named = rf"(?:{before}(?P<words>[^<]+?){after}\s*)?" if before else "(?P<words>)"
        return rf"{named}(?P<run>{self.run})"

    # --- samples and replies

    def written(self, sample: Sample) -> Sample:
        """The sample with its mentions written out. Raises DataError, naming it, for one that means no region."""
        if not any(text.grounded_spans for text in sample.texts):
            return sample
        parts = tuple(self._written(part, sample) if isinstance(part, Text) else part for part in sample.parts)
        return replace(sample, parts=parts)

    def _written(self, text: Text, sample: Sample) -> Text:
        pieces, at = [], 0
        for mention in text.grounded_spans:
            first, end = mention.span
            if not at <= first <= end <= len(text.text):
                raise DataError(
                    f"sample '{sample.key}': a mention covers the characters {mention.span} of '{text.text}', which "
                    "are not there, or belong to the mention before it"
                )
            boxes = [self.framed(box.corners, _size(sample, box)) for box in mention.boxes]
            pieces += [text.text[at:first], self.mention(text.text[first:end], boxes)]
            at = end
        return replace(text, text="".join((*pieces, text.text[at:])), grounded_spans=())

    def read(self, reply: str, size: Size = (1, 1)) -> ParsedText:
        """What a reply about a picture of (width, height) says. Blanks around it and around phrases are left out."""
        text, at = "", 0
        unclear: list[str] = []
        grounded_spans: list[GroundedSpan] = []
        for match in re.finditer(self.entity, reply):
            text += self._rest(reply[at : match.start()], unclear)
            at = match.end()
            words = match["words"] or ""
            first = len(text) + len(words) - len(words.lstrip())
            text += words
            boxes = self._boxes(match["run"], words.strip(), size)
            if boxes is None:
                unclear.append(match["run"])
            else:
                grounded_spans.append(
                    GroundedSpan((first, max(first, len(text.rstrip())) if words.strip() else first), boxes)
                )
        text += self._rest(reply[at:], unclear)
        shift, end = len(text) - len(text.lstrip()), len(text.strip())
        moved = (replace(grounded, span=_clipped(grounded.span, shift, end)) for grounded in grounded_spans)
        return ParsedText(text.strip(), tuple(moved), tuple(unclear))

    def _rest(self, text: str, unclear: list[str]) -> str:
        """A text between boxes; fragments of boxes in it are added to the unclear pieces."""
        text = re.sub(self.quiet, "", text)
        unclear += [match[0] for match in re.finditer(self.trace, text)]
        return re.sub(self.trace, "", text)

    def _boxes(self, run: str, phrase: str, size: Size) -> tuple[Box, ...] | None:
        """The boxes of a run; None if one of them is malformed, or if there is none."""
        found: list[Box] = []
        for corners in self.parse(run):
            x0, y0, x1, y1 = self._unframed(corners, size)
            if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
                return None
            found.append(Box((x0, y0, x1, y1), phrase))
        return tuple(found) or None

    # --- frames

    def framed(self, corners: Corners, size: Size) -> Corners:
        """Corners in the picture, as shares of the frame."""
        if self.frame == "picture":
            return corners
        (across, down), (left, top) = _margins(size)
        x0, y0, x1, y1 = corners
        return x0 * across + left, y0 * down + top, x1 * across + left, y1 * down + top

    def _unframed(self, corners: Corners, size: Size) -> Corners:
        """Corners in the frame, as shares of the picture; what lies on the padding is cut off."""
        if self.frame == "picture" or not all(-_TINY <= corner <= 1 + _TINY for corner in corners):
            return corners
        (across, down), (left, top) = _margins(size)
        x0, y0, x1, y1 = corners
        return (
            min(max((x0 - left) / across, 0), 1),
            min(max((y0 - top) / down, 0), 1),
            min(max((x1 - left) / across, 0), 1),
            min(max((y1 - top) / down, 0), 1),
        )


def rounded(low: float, high: float, bins: int, top: int) -> tuple[int, int]:
    """The two ends of a box along one axis as whole bins, at most `top`; one bin apart where they would coincide."""
    first, last = min(round(low * bins), top), min(round(high * bins), top)
    if first >= last:
        first = min(math.floor(low * bins), top - 1)
        last = first + 1
    return first, last


def on_grid(corners: Corners, bins: int, top: int) -> tuple[int, int, int, int]:
    """The corners of a box as whole bins, (x0, y0, x1, y1): `rounded` along both axes."""
    (x0, x1), (y0, y1) = (rounded(corners[at], corners[at + 2], bins, top) for at in (0, 1))
    return x0, y0, x1, y1


def by_fours(run: str, bins: float) -> list[Corners]:
    """Boxes from all numbers of a text, four for each box, divided by the number of bins."""
    numbers = [float(number) / bins for number in re.findall(r"\d+(?:\.\d+)?", run)]
    return [(numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3]) for at in range(0, len(numbers), 4)]


def _clipped(span: tuple[int, int], shift: int, length: int) -> tuple[int, int]:
    first, end = (min(max(bound - shift, 0), length) for bound in span)
    return first, end


def _margins(size: Size) -> tuple[tuple[float, float], tuple[float, float]]:
    """What the picture covers of its square, and what lies before it, both (across, down), as shares of the side."""
    width, height = size
    side = max(width, height)
    return (width / side, height / side), ((side - width) / 2 / side, (side - height) / 2 / side)


def _size(sample: Sample, box: Box) -> Size:
    """(width, height) of the picture, or of the frames of the video, in which a box lies."""
    if not 0 <= box.image < len(sample.shown):
        raise DataError(
            f"sample '{sample.key}': the box of '{box.phrase}' lies in picture {box.image}, but there are "
            f"{len(sample.shown)}, counted from 0"
        )
    shown = sample.shown[box.image]
    return shown.size
