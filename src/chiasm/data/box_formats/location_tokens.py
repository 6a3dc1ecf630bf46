"""Location tokens of Florence-2 (Xiao et al. 2023, arXiv:2311.06242, section 3): four tokens a box, of the bins in
which its sides lie, after the phrase.

    a red ball<loc_120><loc_44><loc_563><loc_998>"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from chiasm.data.box_format import BoxFormat, Corners
from chiasm.errors import RecipeError


@dataclass(frozen=True)
class LocationTokens(BoxFormat):
    """Four location tokens a box. bins: along each side of the picture; a side is read as the middle of its bin.

    Phrases are not marked: all words before the boxes, up to those before them, are the phrase.
    """

    bins: int = 1000

    run: ClassVar[str] = r"(?:<loc_\d+>)+"
    trace: ClassVar[str] = r"<loc_\d*"

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise RecipeError(f"boxes.bins: a picture has at least 2 bins along each side, not {self.bins}")

    @property
    def marks(self) -> tuple[str, ...]:
        return tuple(f"<loc_{index}>" for index in range(self.bins))

    @property
    def entity(self) -> str:
        return rf"(?P<words>[^<>]+)?(?P<run>{self.run})"

    def write(self, boxes: Sequence[Corners]) -> str:
        return "".join(f"<loc_{index}>" for corners in boxes for index in self._bins_of(corners))

    def _bins_of(self, corners: Corners) -> tuple[int, int, int, int]:
        (x0, x1), (y0, y1) = (self._ends(corners[at], corners[at + 2]) for at in (0, 1))
        return x0, y0, x1, y1

    def _ends(self, low: float, high: float) -> tuple[int, int]:
        first, last = (min(math.floor(corner * self.bins), self.bins - 1) for corner in (low, high))
        if first == last:  # within one bin: the middle of one alone would be no box
            return (first, last + 1) if last + 1 < self.bins else (first - 1, last)
        return first, last

    def parse(self, run: str) -> list[Corners]:
        numbers = [(int(digits) + 0.5) / self.bins for digits in re.findall(r"\d+", run)]
        if len(numbers) % 4:
            return []
        return [(numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3]) for at in range(0, len(numbers), 4)]
