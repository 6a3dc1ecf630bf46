"""Location tokens of Kosmos-2 (Peng et al. 2023, arXiv:2306.14824, section 2): the picture is cut into a grid, and a
box is the cell of its upper left and the cell of its lower right corner.

    <phrase>a snowman</phrase><object><patch_index_0044><patch_index_0863></object>"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from chiasm.data.box_format import BoxFormat, Corners
from chiasm.errors import RecipeError

_DELIMITER = "</delimiter_of_multi_objects/>"
_CELL = r"<patch_index_\d+>"


@dataclass(frozen=True)
class Kosmos(BoxFormat):
    """Two location tokens a box, of the grid cells of its corners. side: cells along each side of the picture.

    A corner is read as the middle of its cell; where both lie in one row or column, the box is all of these cells, as
    in the published code.
    """

    side: int = 32

    around: ClassVar[tuple[str, str]] = ("<phrase>", "</phrase>")
    run: ClassVar[str] = rf"<object>\s*(?:{_CELL}\s*{_CELL}\s*{re.escape(_DELIMITER)}\s*)*{_CELL}\s*{_CELL}\s*</object>"
    quiet: ClassVar[str] = r"<grounding>|</?phrase>"
    trace: ClassVar[str] = rf"(?:</?object>|{_CELL}|{re.escape(_DELIMITER)})+"

    def __post_init__(self) -> None:
        if not 2 <= self.side <= 100:
            raise RecipeError(f"boxes.side: a grid has 2 to 100 cells along each side, not {self.side}")

    @property
    def marks(self) -> tuple[str, ...]:
        named = ("<phrase>", "</phrase>", "<object>", "</object>", _DELIMITER, "<grounding>")
        return (*named, *(f"<patch_index_{cell:04d}>" for cell in range(self.side**2)))

    def write(self, boxes: Sequence[Corners]) -> str:
        return f"<object>{_DELIMITER.join(map(self._write, boxes))}</object>"

    def _write(self, corners: Corners) -> str:
        x0, y0, x1, y1 = corners
        first = math.floor(y0 * self.side) * self.side + math.floor(x0 * self.side)
        last = math.ceil(y1 * self.side - 1) * self.side + math.ceil(x1 * self.side - 1)
        return f"<patch_index_{first:04d}><patch_index_{last:04d}>"

    def parse(self, run: str) -> list[Corners]:
        cells = [int(digits) for digits in re.findall(r"\d+", run)]
        return [self._corners(*pair) for pair in zip(cells[::2], cells[1::2], strict=True)]

    def _corners(self, first: int, last: int) -> Corners:
        (y0, x0), (y1, x1) = divmod(first, self.side), divmod(last, self.side)
        before, after = (0.0, 1.0) if x0 == x1 or y0 == y1 else (0.5, 0.5)
        cell = 1 / self.side
        return (x0 + before) * cell, (y0 + before) * cell, (x1 + after) * cell, (y1 + after) * cell
