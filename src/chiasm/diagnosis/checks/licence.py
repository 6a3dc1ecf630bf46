"""Checks that the data have a licence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chiasm.config import dump
from chiasm.diagnosis.check import Check
from chiasm.diagnosis.finding import Finding
from chiasm.diagnosis.seen import Seen
from chiasm.diagnosis.setting import Setting

_KEYS = ("licence", "license")
_FILES = ("LICENCE", "LICENSE", "COPYING", "README")


class Licence(Check):
    """Looks for a licence in the samples' meta, and for a file about it beside the data."""

    evaluation = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._licensed: Counter[str] = Counter()

    def see(self, seen: Seen) -> None:
        if seen.sample is not None:
            keys = {key.lower() for key, value in seen.sample.meta.items() if value}
            self._licensed[seen.set] += any(key in keys for key in _KEYS)

    def findings(self) -> Iterator[Finding]:
        for set_ in self.setting.sets:
            folders = _folders(dump(set_.source))
            if self._licensed[set_.name] or not folders or any(_has_notice(folder) for folder in folders):
                continue
            yield self.found(
                "note",
                f"{set_.name}: no licence is written down",
                f"Neither a sample's meta nor a file in {', '.join(str(folder) for folder in folders)} tells what may "
                "be done with the data, so nobody can say what may be done with the model.",
                "Put a LICENSE or README beside the data.",
            )


def _folders(value: Any) -> list[Path]:
    """The folders of all files and folders that a source's entry names."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    if isinstance(value, (dict, list)):
        return list(dict.fromkeys(folder for entry in values for folder in _folders(entry)))
    if not isinstance(value, str) or "/" not in value:
        return []
    path = Path(value)
    return [path] if path.is_dir() else [path.parent] if path.parent.is_dir() else []


def _has_notice(folder: Path) -> bool:
    """Whether a file about the data lies in a folder, or in the one above it."""
    folders = (folder, folder.absolute().parent)
    return any(
        file.name.upper().startswith(_FILES) for parent in folders for file in parent.iterdir() if file.is_file()
    )
