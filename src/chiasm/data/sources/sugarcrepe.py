"""SugarCrepe: COCO photos with a true caption and a hard negative (Hsieh et al. 2023, arXiv:2306.14610).

Reads the benchmark's own files, `add_att.json` to `swap_obj.json`; the kind of a negative is the file's name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from chiasm.data.files import picture, read_json
from chiasm.data.locations import Location, matching
from chiasm.data.sample import Negative, Sample
from chiasm.data.source import Source
from chiasm.errors import DataError

_FIELDS = ("filename", "caption", "negative_caption")


@dataclass(frozen=True)
class SugarCrepe(Source):
    """One sample a pair: a photo, its caption, and one negative.

    path: the folder of the seven JSON files. images: the folder of COCO's val2017 photos that they name.
    """

    path: Location
    images: Location

    def __post_init__(self) -> None:
        for folder, what in ((self.path, "SugarCrepe's JSON files"), (self.images, "COCO's photos")):
            if not folder.is_dir():
                raise DataError(f"there is no folder {folder} with {what}")

    @cached_property
    def _rows(self) -> list[tuple[str, str, Any]]:
        """All pairs as (kind, number, row)."""
        rows = []
        for file in matching(self.path, "*.json"):
            content = read_json(file)
            if not isinstance(content, dict):
                raise DataError(f"{file} is not one of SugarCrepe's files: it holds no object of numbered rows")
            rows += [(file.stem, number, row) for number, row in content.items()]
        if not rows:
            raise DataError(f"{self.path} holds none of SugarCrepe's JSON files (add_att.json to swap_obj.json)")
        return rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        kind, number, row = self._rows[index]
        where = f"{self.path / kind}.json, row {number}"
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) and row[key].strip() for key in _FIELDS):
            raise DataError(f"{where} needs a text in each of {', '.join(_FIELDS)}")
        name, true, false = (row[key] for key in _FIELDS)
        return Sample(
            key=f"sugarcrepe/{kind}/{number}",
            parts=(picture(self.images, name),),
            captions=(true,),
            negatives=(Negative(false, true, kind),),
        )
