"""Captions whose phrases name their boxes, as Kosmos-2 learns them (Peng et al. 2023, arXiv:2306.14824)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

from chiasm.data.sample import Box, GroundedSpan, Sample, Text
from chiasm.data.source import Derived
from chiasm.errors import DataError


@dataclass(frozen=True)
class Grounded(Derived):
    """The samples of a source whose boxes know where the first caption names them: that caption is what is learned.

    of: the source. prompt: a text before the caption, such as "<grounding>" for Kosmos-2; "" for none.
    A phrase that names several boxes is written with all of them. Of phrases within each other the longest is kept.
    A sample without a caption, or whose boxes stand nowhere in it, raises DataError.
    """

    prompt: str = ""

    def __getitem__(self, index: int) -> Sample:
        sample = self.of[index]
        named: dict[tuple[int, int], list[Box]] = defaultdict(list)
        for box in sample.boxes:
            if box.span is not None:
                named[box.span].append(box)
        if not sample.captions or not named:
            raise DataError(f"sample '{sample.key}' has no caption in which its boxes are named")
        caption = Text(sample.captions[0], target=True, grounded_spans=_apart(named))
        parts = (*sample.images, *((Text(self.prompt),) if self.prompt else ()), caption)
        return replace(sample, parts=parts, questions=(), negatives=())


def _apart(named: dict[tuple[int, int], list[Box]]) -> tuple[GroundedSpan, ...]:
    """Mentions in order, the longest first where some overlap."""
    kept: list[tuple[int, int]] = []
    for first, last in sorted(named, key=lambda span: (span[0] - span[1], span)):
        if all(last <= start or end <= first for start, end in kept):
            kept.append((first, last))
    return tuple(GroundedSpan(span, tuple(named[span])) for span in sorted(kept))
