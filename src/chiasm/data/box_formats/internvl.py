"""Boxes of InternVL (Chen et al. 2024, arXiv:2404.16821): lists of corners in thousandths.

<ref>a red ball</ref><box>[[120, 44, 563, 998]]</box>"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from chiasm.data.box_format import BoxFormat, Corners, by_fours, on_grid

_LIST = r"\[\s*\d{1,4}\s*(?:,\s*\d{1,4}\s*){3}\]"


@dataclass(frozen=True)
class InternVL(BoxFormat):
    """Boxes in thousandths; all boxes of a phrase stand in one list."""

    around: ClassVar[tuple[str, str]] = ("<ref>", "</ref>")
    run: ClassVar[str] = rf"<box>\s*\[\s*{_LIST}(?:\s*,\s*{_LIST})*\s*\]\s*</box>"
    quiet: ClassVar[str] = r"</?ref>"
    trace: ClassVar[str] = r"<box>[^<]*(?:</box>)?|</box>"

    @property
    def marks(self) -> tuple[str, ...]:
        return "<ref>", "</ref>", "<box>", "</box>"

    def write(self, boxes: Sequence[Corners]) -> str:
        return f"<box>{[list(on_grid(corners, 1000, 1000)) for corners in boxes]}</box>"

    def parse(self, run: str) -> list[Corners]:
        return by_fours(run, 1000)
