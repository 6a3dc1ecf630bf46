"""SugarCrepe: COCO photos with a true caption and a hard negative (Hsieh et al. 2023, arXiv:2306.14610).

Reads the benchmark's own files, `add_att.json` to `swap_obj.json`; the kind of a negative is the file's name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from chiasm.data.image import Image
from chiasm.data.sample import Negative, Sample
from chiasm.data.source import Source
from chiasm.data.sources.captions import inside
from chiasm.errors import DataError


@dataclass(frozen=True)
class SugarCrepe(Source):
    """One sample a pair: a photo, its caption, and one negative.

    path: the folder of the seven JSON files. images: the folder of COCO's val2017 photos that they name.
    """

    path: Path
    images: Path

    def __post_init__(self) -> None:
        for folder, what in ((self.path, "SugarCrepe's JSON files"), (self.images, "COCO's photos")):
            if not folder.is_dir():
                raise DataError(f"there is no folder {folder} with {what}")

    @cached_property
    def _rows(self) -> list[tuple[str, str, dict[str, str]]]:
        rows = []
        for file in sorted(self.path.glob("*.json")):
            for number, row in json.loads(file.read_text(encoding="utf-8")).items():
                rows.append((file.stem, number, row))
        if not rows:
            raise DataError(f"{self.path} holds none of SugarCrepe's JSON files (add_att.json to swap_obj.json)")
        return rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        kind, number, row = self._rows[index]
        key = f"sugarcrepe/{kind}/{number}"
        try:
            name, true, false = row["filename"], row["caption"], row["negative_caption"]
        except KeyError as error:
            raise DataError(f"{key} has no {error}") from error
        return Sample(
            key=key,
            parts=(Image(inside(self.images, name)),),
            captions=(true,),
            negatives=(Negative(false, true, kind),),
        )
