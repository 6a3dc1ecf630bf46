"""Checks for samples that cannot be read, by reason, and whether a run would stop for them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from chiasm.diagnosis.check import Check
from chiasm.diagnosis.finding import Finding, FlaggedRows, Severity, share
from chiasm.diagnosis.seen import TRAINING, Kind, Seen
from chiasm.diagnosis.setting import Setting

_WORDS: dict[Kind, str] = {
    "row": "rows that cannot be read",
    "missing": "pictures that are not there",
    "empty": "pictures that are empty files",
    "no picture": "files that are no picture",
    "broken": "pictures that are cut short or broken",
    "too large": "pictures of more pixels than are allowed",
}
_MENDS: dict[Kind, str] = {
    "row": "Mend the rows named, or take them out of the file.",
    "missing": "Check the folder of the pictures (`images`, `data.root`) and copy what is missing.",
    "empty": "Copy the pictures again.",
    "no picture": "Take them out: a download that failed often leaves a web page under a picture's name.",
    "broken": "Copy the pictures again, or take the samples out.",
    "too large": "Scale them down.",
}


class Readable(Check):
    """Counts the samples that cannot be used, by set and kind of trouble."""

    evaluation = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._read: Counter[str] = Counter()
        self._rows: dict[tuple[str, Kind], FlaggedRows] = defaultdict(FlaggedRows)

    def see(self, seen: Seen) -> None:
        self._read[seen.set] += 1
        if seen.trouble is not None:
            self._rows[seen.set, seen.trouble.kind].add(seen.name, seen.trouble.reason)

    def findings(self) -> Iterator[Finding]:
        limit = self.setting.recipe.data.max_skipped
        lost: Counter[str] = Counter()
        for (name, _), rows in self._rows.items():
            lost[name] += rows.count
        for (name, kind), rows in self._rows.items():
            read = self._read[name]
            stops = lost[name] / read > limit if name == TRAINING else lost[name] == read
            why = (
                f"In all, {share(lost[name], read)} samples cannot be used. Training leaves out up to "
                f"{limit:.1%} (data.max_skipped), and stops above."
                if name == TRAINING
                else "In an evaluation such an item counts as wrong, whatever the model says."
            )
            severity: Severity = "error" if stops else "warning"
            yield self.found(severity, f"{name}: {_WORDS[kind]}", why, _MENDS[kind], rows=rows, of=read)
