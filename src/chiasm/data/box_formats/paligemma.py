"""Location tokens of PaliGemma (Beyer et al. 2024, arXiv:2407.07726, section 3.2): y before x, before the phrase, boxes
apart by ";".

    <loc0044><loc0120><loc0998><loc0563> a red ball ; <loc0000><loc0010><loc0200><loc0300> a cat"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from chiasm.data.box_format import BoxFormat, Corners, by_fours, on_grid

_BINS = 1024


@dataclass(frozen=True)
class PaliGemma(BoxFormat):
    """Four location tokens a box, before the phrase, which is repeated for each box; replies are read likewise."""

    run: ClassVar[str] = r"(?:<loc\d{4}>)+"
    trace: ClassVar[str] = r"<loc\d*>?"

    @property
    def marks(self) -> tuple[str, ...]:
        return tuple(f"<loc{index:04d}>" for index in range(_BINS))

    @property
    def entity(self) -> str:
        return rf"(?P<run>{self.run})(?P<words>[^<;]*)(?:;\s*)?"

    def mention(self, phrase: str, boxes: Sequence[Corners]) -> str:
        return " ; ".join(f"{self.write([box])} {phrase}".rstrip() for box in boxes) if boxes else phrase

    def write(self, boxes: Sequence[Corners]) -> str:
        return " ; ".join(map(_written, boxes))

    def parse(self, run: str) -> list[Corners]:
        if run.count("<") != 4:  # several would be apart by ";"
            return []
        return [(x0, y0, x1, y1) for y0, x0, y1, x1 in by_fours(run, _BINS)]


def _written(corners: Corners) -> str:
    x0, y0, x1, y1 = on_grid(corners, _BINS, _BINS - 1)
    return f"<loc{y0:04d}><loc{x0:04d}><loc{y1:04d}><loc{x1:04d}>"
