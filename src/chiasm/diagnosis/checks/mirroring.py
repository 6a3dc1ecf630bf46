"""Checks for images that are mirrored while their captions say "left" and "right"."""

from __future__ import annotations

import re
from collections.abc import Iterator

from chiasm.diagnosis.check import Check
from chiasm.diagnosis.finding import Finding, FlaggedRows
from chiasm.diagnosis.seen import Seen
from chiasm.diagnosis.setting import Setting

_SIDES = re.compile(r"\b(left|right|clockwise|leftmost|rightmost|left-hand|right-hand)\b", re.IGNORECASE)
_MANY = 0.01  # share of the samples


class Mirroring(Check):
    """Counts the texts that name a side, where the recipe mirrors pictures."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        augment = setting.transform.augment if setting.transform is not None else None
        self._flip = augment.flip if augment is not None else 0.0
        self._samples, self._sided = 0, FlaggedRows()

    def see(self, seen: Seen) -> None:
        if not self._flip or seen.sample is None:
            return
        self._samples += 1
        found = next((text for text in seen.texts if _SIDES.search(text)), None)
        if found is not None:
            self._sided.add(seen.name, f"“{found}”", seen.images)

    def findings(self) -> Iterator[Finding]:
        if self._sided.count:
            yield self.found(
                "error" if self._sided.count > _MANY * self._samples else "warning",
                "samples whose texts name a side, while pictures are mirrored",
                f"In {self._flip:.0%} of the draws left becomes right in the picture and stays left in the text, so "
                "the model learns that the words mean nothing.",
                "Set the augmentation's flip to 0.",
                rows=self._sided,
                of=self._samples,
            )
