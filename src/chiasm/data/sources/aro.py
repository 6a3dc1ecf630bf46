"""ARO's Visual Genome files: a region of a photo, a true caption and one with relation or attributes changed.

VG-Relation and VG-Attribution (Yuksekgonul et al. 2023, arXiv:2210.01936), as published."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from chiasm.data.crop import Crop
from chiasm.data.files import Rows, json_list, picture
from chiasm.data.locations import Location
from chiasm.data.sample import Negative, Sample
from chiasm.data.source import Source
from chiasm.errors import DataError

_TEXTS = ("image_path", "true_caption", "false_caption")
_BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")


@dataclass(frozen=True)
class Aro(Source):
    """One sample a row, for the task `pairs`: the region, its caption, and the false one as its negative.

    path: visual_genome_relation.json or visual_genome_attribution.json. images: the folder of photos; by default
    `images` beside the file. The kind of a negative is the row's relation, or "attribution".
    A picture is cut to the row's box, as in the official evaluation: it shows what the caption is about.
    """

    path: Location
    images: Location | None = None

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise DataError(f"there is no file {self.path}; give ARO's visual_genome_relation.json or its like")
        if not self._folder.is_dir():
            raise DataError(f"there is no folder {self._folder} with the photos that {self.path} names")

    @property
    def _folder(self) -> Location:
        return self.images if self.images is not None else self.path.parent / "images"

    @cached_property
    def _rows(self) -> Rows:
        return json_list(self.path)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        row, where = self._rows[index], self._rows.where(index)
        if not all(isinstance(row.get(name), str) and row[name].strip() for name in _TEXTS):
            raise DataError(f"{where} needs a text in each of {', '.join(_TEXTS)}")
        box = [row[name] for name in _BOX if isinstance(row.get(name), int)]
        if len(box) < len(_BOX) or box[2] < 1 or box[3] < 1:
            raise DataError(f"{where} needs whole pixels in {', '.join(_BOX)}, and a region of at least one")
        left, top, across, down = box
        name, true, false = (row[key] for key in _TEXTS)
        return Sample(
            key=f"{self.path.stem}/{index}",
            parts=(Crop(picture(self._folder, name), (left, top, left + across, top + down)),),
            captions=(true,),
            negatives=(Negative(false, true, str(row.get("relation_name", "attribution"))),),
            meta={key: value for key, value in row.items() if key not in (*_TEXTS, *_BOX)},
        )
