"""Boxes as numbers from 0 to 1 in brackets: LLaVA 1.5 (Liu et al. 2023, arXiv:2310.03744) with two digits, Shikra (Chen
et al. 2023, arXiv:2306.15195) with three.

    a red ball [0.120, 0.044, 0.563, 0.998]"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from chiasm.data.box_format import BoxFormat, Corners, Frame, by_fours, on_grid
from chiasm.data.sample import Sample, Text
from chiasm.errors import RecipeError

_NUMBER = r"\s*(?:0?\.\d+|[01](?:\.\d*)?)\s*"
_FOUR = rf"{_NUMBER}(?:,{_NUMBER}){{3}}"


@dataclass(frozen=True)
class Floats(BoxFormat):
    """Boxes as decimal fractions. Phrases are not marked, so a reply is read as boxes with words around them.

    Several boxes of a phrase stand in one pair of brackets, with ";" between them, as Shikra writes them.
    digits: after the decimal point. Both of these models see a picture padded to a square, and mean that.
    """

    frame: Frame = "square"
    digits: int = 3

    run: ClassVar[str] = rf"\[{_FOUR}(?:;{_FOUR})*\]"
    trace: ClassVar[str] = r"\[[\d.,;?\s-]*\]?"

    def __post_init__(self) -> None:
        if not 1 <= self.digits <= 9:
            raise RecipeError(f"boxes.digits: give 1 to 9 digits behind the point, not {self.digits}")

    def mention(self, phrase: str, boxes: Sequence[Corners]) -> str:
        return " ".join(text for text in (phrase, self.write(boxes) if boxes else "") if text)

    def write(self, boxes: Sequence[Corners]) -> str:
        bins = 10**self.digits
        written = (
            ", ".join(f"{corner / bins:.{self.digits}f}" for corner in on_grid(corners, bins, bins))
            for corners in boxes
        )
        return "[" + "; ".join(written) + "]"

    def parse(self, run: str) -> list[Corners]:
        return by_fours(run, 1)


LOCATED = Floats("picture", digits=4)  # the one spelling into which replies of any model are brought


def located(spelling: BoxFormat, sample: Sample, reply: str) -> str:
    """A reply to a sample with its boxes spelled as LOCATED does; what is unclear becomes "[?]"."""
    images = sample.images
    found = spelling.read(reply, images[0].size if images else (1, 1))
    answer = Sample(sample.key, (*images[:1], Text(found.text, grounded_spans=found.grounded_spans)))
    plain = re.sub(r"(?<=\S)\[", " [", LOCATED.written(answer).texts[0].text)
    return " ".join(filter(None, (plain, *("[?]" for _ in found.unclear))))
