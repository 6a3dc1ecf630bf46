"""Boxes of MiniGPT-v2 (Chen et al. 2023, arXiv:2310.09478, section 2.2): corners in hundredths.

<p>a red ball</p> {<12><4><56><99>}"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from chiasm.data.box_format import BoxFormat, Corners, by_fours, on_grid

_FOUR = r"<\d{1,3}>" * 4


@dataclass(frozen=True)
class MiniGPTv2(BoxFormat):
    """Boxes in hundredths, in braces; all boxes of a phrase share one pair, with <delim> between them."""

    around: ClassVar[tuple[str, str]] = ("<p>", "</p>")
    run: ClassVar[str] = rf"\{{{_FOUR}(?:<delim>{_FOUR})*\}}"
    quiet: ClassVar[str] = r"</?p>"
    trace: ClassVar[str] = r"\{?(?:<delim>|<\d+>)+\}?"

    def mention(self, phrase: str, boxes: Sequence[Corners]) -> str:
        named = f"<p>{phrase}</p>" if phrase else ""
        return " ".join(text for text in (named, self.write(boxes) if boxes else "") if text)

    def write(self, boxes: Sequence[Corners]) -> str:
        written = ("".join(f"<{corner}>" for corner in on_grid(corners, 100, 100)) for corners in boxes)
        return "{" + "<delim>".join(written) + "}"

    def parse(self, run: str) -> list[Corners]:
        return by_fours(run, 100)
