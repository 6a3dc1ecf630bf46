"""Checks for images that are tiny, huge, or much longer than wide."""

from __future__ import annotations

from collections.abc import Iterator

from chiasm.diagnosis.check import Check
from chiasm.diagnosis.finding import Finding, FlaggedRows
from chiasm.diagnosis.seen import Seen
from chiasm.diagnosis.setting import Setting

_TINY = 16  # pixels; below, nothing can be told on the shorter side
_LONG = 4.0  # longer by shorter side
_HUGE = 25_000_000  # pixels


class Sizes(Check):
    """Flags images by their width and height."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._images = 0
        self._tiny, self._small, self._long, self._huge = FlaggedRows(), FlaggedRows(), FlaggedRows(), FlaggedRows()

    def see(self, seen: Seen) -> None:
        transform = self.setting.transform
        for image in seen.decoded:
            self._images += 1
            width, height = image.size
            detail, shown = f"{width} x {height} pixels", (image.image,)
            if min(width, height) < _TINY:
                self._tiny.add(seen.name, detail, shown)
            elif transform is not None and 2 * min(width, height) < transform.size:
                self._small.add(seen.name, detail, shown)
            if max(width, height) >= _LONG * min(width, height):
                self._long.add(seen.name, detail, shown)
            if width * height > _HUGE:
                self._huge.add(seen.name, detail, shown)

    def findings(self) -> Iterator[Finding]:
        of, transform = self._images, self.setting.transform
        if self._tiny.count:
            why = "They hold next to nothing; spacers, icons and tracking pixels look like this."
            yield self.found("warning", f"pictures below {_TINY} pixels", why, "Take them out.", rows=self._tiny, of=of)
        if self._small.count and transform is not None:
            yield self.found(
                "note",
                f"pictures of less than half of the {transform.size} pixels that the model sees",
                "They are blown up, and stay blurred.",
                "Use larger ones where they exist, or a model for fewer pixels.",
                rows=self._small,
                of=of,
            )
        if self._long.count:
            ways = {
                "crop": "processor.image.resize: crop cuts at least three quarters of them away.",
                "squash": "processor.image.resize: squash distorts them beyond recognition.",
                "pad": "processor.image.resize: pad leaves at most a quarter of the pixels to them.",
            }
            why = ways[transform.resize] if transform is not None else "Few pixels are left to their shorter side."
            mend = "Take them out, or cut them into pieces that have captions of their own."
            title = f"pictures at least {_LONG:g} times as long as wide"
            yield self.found("warning", title, why, mend, rows=self._long, of=of)
        if self._huge.count:
            yield self.found(
                "warning",
                f"pictures of more than {_HUGE // 1_000_000} million pixels",
                "Each takes up to seconds and hundreds of megabytes to decode, again in every epoch.",
                "Scale them down once.",
                rows=self._huge,
                of=of,
            )
