"""Checks for image files whose content is of another format than their name says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import PIL.Image

from chiasm.diagnosis.check import Check
from chiasm.diagnosis.finding import Finding, FlaggedRows
from chiasm.diagnosis.seen import Seen
from chiasm.diagnosis.setting import Setting

_SAME = {"MPO": "JPEG"}  # what cameras write: JPEGs with more after them


class Names(Check):
    """Compares the ending of a picture's file with its content."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._endings = PIL.Image.registered_extensions()
        self._named, self._wrong = 0, FlaggedRows()

    def see(self, seen: Seen) -> None:
        for image in seen.decoded:
            if not isinstance(image.image.source, Path) or not image.format:
                continue
            self._named += 1
            suffix = image.image.source.suffix
            expected = self._endings.get(suffix.lower())
            if expected is not None and _SAME.get(image.format, image.format) != _SAME.get(expected, expected):
                self._wrong.add(seen.name, f"named {suffix}, but it is a {image.format}", (image.image,))

    def findings(self) -> Iterator[Finding]:
        if self._wrong.count:
            why = "chiasm goes by the content, but other tools go by the name, and often such files are thumbnails."
            mend = "Rename them; look at some whether they are what they should be."
            title = "pictures that are not what their name says"
            yield self.found("note", title, why, mend, rows=self._wrong, of=self._named)
