"""Checks for texts in another script than most texts of the data."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import lru_cache

from chiasm.diagnosis.check import Check
from chiasm.diagnosis.finding import Finding, FlaggedRows
from chiasm.diagnosis.seen import Seen
from chiasm.diagnosis.setting import Setting


class Scripts(Check):
    """Goes by the script of most letters of a text; a sample counts by its first text of each script."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._samples = 0
        self._rows: dict[str, FlaggedRows] = defaultdict(FlaggedRows)

    def see(self, seen: Seen) -> None:
        self._samples += seen.sample is not None
        by_script = {_script(text): text for text in reversed(seen.texts)}
        for script, text in by_script.items():
            if script:
                self._rows[script].add(seen.name, f"“{text[:120]}”", seen.images)

    def findings(self) -> Iterator[Finding]:
        usual = max(self._rows, key=lambda script: self._rows[script].count, default="")
        for script, rows in sorted(self._rows.items()):
            if script != usual:
                title = f"samples with texts in {script.title()}, where most are in {usual.title()}"
                yield self.found("note", title, "It may be meant.", rows=rows, of=self._samples)


def _script(text: str) -> str:
    """The script of most letters: "LATIN", "CJK", "CYRILLIC"; "" without letters."""
    counts = Counter(_of(letter) for letter in text if letter.isalpha())
    return max(counts, key=lambda script: counts[script], default="")


@lru_cache(maxsize=4096)
def _of(letter: str) -> str:
    """The script of a letter, by the first word of its Unicode name."""
    return unicodedata.name(letter, "UNKNOWN").split()[0].split("-")[0]
