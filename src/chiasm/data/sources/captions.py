"""Pictures with captions, one JSON object a line: `{"image": "images/1.jpg", "captions": ["...", ...]}`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from chiasm.data.image import Image
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.errors import DataError


@dataclass(frozen=True)
class Captions(Source):
    """A JSON-lines file of pictures and captions.

    path: the file; picture paths are relative to its folder.
    split: keeps only the rows whose "split" is this.
    Each row holds "image" and "captions" (a list) or "caption" (one). Other keys become `meta`.
    Raises DataError, naming the row, for what cannot be read.
    """

    path: Path
    split: str | None = None

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise DataError(f"there is no caption file at {self.path}; give the path of a .jsonl file")

    @cached_property
    def _rows(self) -> list[tuple[int, dict[str, object]]]:
        rows = []
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path} is not UTF-8 at byte {error.start}; convert it with iconv") from error
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{self.path}, line {number}: not JSON ({error.msg})") from error
            if not isinstance(row, dict) or "image" not in row:
                raise DataError(f"{self.path}, line {number}: expected an object with 'image' and 'captions'")
            if self.split is None or row.get("split") == self.split:
                rows.append((number, row))
        return rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        number, row = self._rows[index]
        captions = row.get("captions", row.get("caption"))
        captions = [captions] if isinstance(captions, str) else captions
        if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
            raise DataError(f"{self.path}, line {number}: 'captions' must be a list of texts")
        kept = tuple(caption.strip() for caption in captions if caption.strip())
        meta = {key: value for key, value in row.items() if key not in ("image", "captions", "caption")}
        return Sample(
            key=str(row["image"]),
            parts=(Image(inside(self.path.parent, str(row["image"]))),),
            captions=kept,
            meta=meta,
        )


def inside(folder: Path, name: str) -> Path:
    """`folder / name`, refused with DataError if that leads out of the folder (`..`, absolute paths, links)."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"'{name}' leads out of the folder {folder}; data may only name files inside of it")
    return path
