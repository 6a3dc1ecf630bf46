"""Winoground: two pictures and two captions of the same words (Thrush et al. 2022, arXiv:2204.03162).

Reads the benchmark's own `examples.jsonl` and its folder of pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import PIL.Image

from chiasm.data.files import Rows, json_lines, picture
from chiasm.data.image import Image
from chiasm.data.locations import Location
from chiasm.data.sample import Sample, Text
from chiasm.data.source import Source
from chiasm.errors import DataError

_FIELDS = ("caption_0", "image_0", "caption_1", "image_1")


@dataclass(frozen=True)
class Winoground(Source):
    """One sample an example, for the task `quadruples`: first picture, its caption, second picture, its caption.

    path: the file examples.jsonl. images: the folder of pictures; by default `images` beside the file. A row names a
    picture without the suffix of its file, which is .png.
    meta["kind"] is the row's collapsed tag (Object, Relation or Both); all tags are in `meta`.
    """

    path: Location
    images: Location | None = None

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        """Six examples of plain pictures, no two of which are of the same colour."""
        (folder / "images").mkdir(exist_ok=True)
        rows = []
        for at in range(6):
            names = f"ex_{at}_img_0", f"ex_{at}_img_1"
            for side, name in enumerate(names):
                PIL.Image.new("RGB", (32, 32), (20 * at, 99 * side, 50)).save(folder / "images" / f"{name}.png")
            captions = {"caption_0": f"star {at} on a moon", "caption_1": f"a moon on star {at}"}
            tag = ("Object", "Relation")[at % 2]
            rows.append({"id": at, **captions, "image_0": names[0], "image_1": names[1], "collapsed_tag": tag})
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        (folder / "examples.jsonl").write_text(lines, encoding="utf-8")
        return {"path": str(folder / "examples.jsonl")}

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise DataError(f"there is no file {self.path}; give Winoground's examples.jsonl")
        if not self._folder.is_dir():
            raise DataError(f"there is no folder {self._folder} with Winoground's pictures")

    @property
    def _folder(self) -> Location:
        return self.images if self.images is not None else self.path.parent / "images"

    @cached_property
    def _rows(self) -> Rows:
        return json_lines(self.path)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        row, where = self._rows[index], self._rows.where(index)
        if not all(isinstance(row.get(name), str) and row[name].strip() for name in _FIELDS):
            raise DataError(f"{where} needs a text in each of {', '.join(_FIELDS)}")
        first, first_image, second, second_image = (row[name] for name in _FIELDS)
        tags = {name: value for name, value in row.items() if name not in _FIELDS}
        return Sample(
            key=f"winoground/{row.get('id', index)}",
            parts=(self._image(first_image), Text(first), self._image(second_image), Text(second)),
            meta={"kind": str(row.get("collapsed_tag", "")), **tags},
        )

    def _image(self, name: str) -> Image:
        return picture(self._folder, name if name.endswith(".png") else f"{name}.png")
