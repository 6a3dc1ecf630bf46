"""Boxes of Qwen-VL (Bai et al. 2023, arXiv:2308.12966, section 3.2): corners in thousandths, below 1,000.

<ref>a red ball</ref><box>(120,44),(563,998)</box>"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from chiasm.data.box_format import BoxFormat, Corners, by_fours, on_grid

CORNER = r"\(\s*\d{1,4}\s*,\s*\d{1,4}\s*\)"


@dataclass(frozen=True)
class QwenVL(BoxFormat):
    """Boxes in thousandths, each between its own <box> and </box>."""

    around: ClassVar[tuple[str, str]] = ("<ref>", "</ref>")
    box: ClassVar[tuple[str, str]] = ("<box>", "</box>")
    run: ClassVar[str] = rf"(?:<box>\s*{CORNER}\s*,\s*{CORNER}\s*</box>\s*)*<box>\s*{CORNER}\s*,\s*{CORNER}\s*</box>"
    quiet: ClassVar[str] = r"</?ref>"
    trace: ClassVar[str] = r"<box>[^<]*(?:</box>)?|</box>"

    @property
    def marks(self) -> tuple[str, ...]:
        return (*self.around, *self.box)

    def write(self, boxes: Sequence[Corners]) -> str:
        return "".join(map(self._write, boxes))

    def _write(self, corners: Corners) -> str:
        x0, y0, x1, y1 = on_grid(corners, 1000, 999)
        return f"{self.box[0]}({x0},{y0}),({x1},{y1}){self.box[1]}"

    def parse(self, run: str) -> list[Corners]:
        return by_fours(run, 1000)
