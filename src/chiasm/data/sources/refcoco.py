"""Phrases and the regions that they name: RefCOCO, RefCOCO+, RefCOCOg (Kazemzadeh et al. 2014; Yu et al. 2016,
arXiv:1608.00272), as the JSON files that Shikra, Qwen-VL and others read them from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from chiasm.data.files import Rows, check_shape, inside, json_lines, json_list, read_json
from chiasm.data.image import Image
from chiasm.data.locations import Location, image_at
from chiasm.data.sample import Box, Sample
from chiasm.data.source import Source
from chiasm.errors import DataError

_NAMES, _TEXTS = ("image", "img_path", "file_name"), ("sent", "expression", "phrase")
_READERS = {".json": json_list, ".jsonl": json_lines}
_Region = tuple[tuple[float, float, float, float], str, tuple[float, float] | None]  # x0 y0 x1 y1, photo, its size


@dataclass(frozen=True)
class RefCOCO(Source):
    """One sample a photo, in the order in which the file first names it, with a box for each phrase.

    path: a .json list or a .jsonl file of rows, each with a photo ("image", "img_path" or "file_name"), its phrase
        ("sent", "expression" or "phrase"; or "sentences", a list of texts or of objects with "sent"), and "bbox" in
        pixels; "width" and "height" of the photo spare it being opened. images: the folder of the photos.
    corners: what "bbox" holds, x0 y0 x1 y1 ("xyxy") or x y width height ("xywh").
    instances: COCO's file of boxes, for rows that name theirs by "ann_id", as refs(unc) does; it names the photos too.
    split: only rows whose "split" is this. A box is clipped to its photo; one that lies outside raises DataError.
    """

    path: Location
    images: Location
    corners: Literal["xyxy", "xywh"] = "xyxy"
    instances: Location | None = None
    split: str = ""

    def __post_init__(self) -> None:
        if not self.path.is_file() or self.path.suffix not in _READERS:
            raise DataError(f"there is no file of phrases at {self.path}; give the path of a .json or .jsonl file")
        if not self.images.is_dir():
            raise DataError(f"there is no folder {self.images} with the photos")
        if self.instances is not None and not self.instances.is_file():
            raise DataError(f"there is no COCO file at {self.instances}")

    @cached_property
    def _rows(self) -> Rows:
        return _READERS[self.path.suffix](self.path)

    @cached_property
    def _photos(self) -> list[list[int]]:
        """The rows of each photo. One that cannot be read, or names none, stands alone: reading it raises DataError."""
        found: dict[object, list[int]] = {}
        for index, row in enumerate(self._rows.each()):
            if row is None or not self.split or row.get("split") == self.split:
                photo = None if row is None else row.get("image_id", self._name(row))
                found.setdefault(photo if isinstance(photo, int | str) else ("row", index), []).append(index)
        return list(found.values())

    @cached_property
    def _regions(self) -> dict[int, _Region]:
        """Boxes of COCO's file, by the id of their annotation."""
        assert self.instances is not None
        content = read_json(self.instances)
        try:
            photos = {image["id"]: image for image in content["images"]}
            return {
                annotation["id"]: (
                    _corners(annotation["bbox"], "xywh"),
                    photos[annotation["image_id"]]["file_name"],
                    _size(photos[annotation["image_id"]]),
                )
                for annotation in content["annotations"]
            }
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{self.instances} is not COCO's file of boxes: {error!r} is amiss") from error

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> Sample:
        boxes: list[Box] = []
        photos: dict[str, Image] = {}
        for number in self._photos[index]:
            row, where = self._rows[number], self._rows.where(number)
            corners, name, size = self._region(row, where)
            if name not in photos:
                photos[name] = image_at(inside(self.images, name))
            if len(photos) > 1:
                raise DataError(f"{where}: the photo '{name}' has the image_id of '{next(iter(photos))}'")
            if size is not None:
                check_shape(photos[name], size, where)
            width, height = size or photos[name].size
            x0, x1 = (min(max(x / width, 0.0), 1.0) for x in corners[::2])
            y0, y1 = (min(max(y / height, 0.0), 1.0) for y in corners[1::2])
            if not (x0 < x1 and y0 < y1):
                raise DataError(f"{where}: the box {list(corners)} has no area inside of '{name}', {width} x {height}")
            boxes += [Box((x0, y0, x1, y1), phrase) for phrase in _phrases(row, where)]
        return Sample(name, tuple(photos.values()), boxes=tuple(boxes))

    def _region(self, row: dict[str, Any], where: str) -> _Region:
        if self.instances is not None:
            number = row.get("ann_id")
            if not isinstance(number, int) or number not in self._regions:
                raise DataError(f"{where}: {self.instances} has no box with its ann_id {number!r}")
            return self._regions[number]
        name = self._name(row)
        try:
            if name is None:
                raise ValueError(f"no photo under {', '.join(_NAMES)}")
            return _corners(row.get("bbox"), self.corners), name, _size(row)
        except ValueError as error:
            raise DataError(f"{where}: {error}") from error

    def _name(self, row: dict[str, Any]) -> str | None:
        return next((row[key] for key in _NAMES if isinstance(row.get(key), str) and row[key].strip()), None)


def _phrases(row: dict[str, Any], where: str) -> list[str]:
    sentences = row.get("sentences")
    given = [next((row[key] for key in _TEXTS if key in row), None)] if sentences is None else sentences
    if not isinstance(given, list):
        raise DataError(f"{where}: 'sentences' must be a list")
    texts = [sentence.get("sent") if isinstance(sentence, dict) else sentence for sentence in given]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(f"{where} needs a phrase, a text under {', '.join(_TEXTS)}, or several under 'sentences'")
    return [str(text).strip() for text in texts]


def _corners(given: object, form: str) -> tuple[float, float, float, float]:
    """The corners of a box. Raises ValueError for what is no box."""
    if not isinstance(given, list) or len(given) != 4 or not all(_is_number(number) for number in given):
        raise ValueError(f"the bbox {given!r} is not four numbers")
    first, second, third, fourth = (float(number) for number in given)
    return (first, second, third, fourth) if form == "xyxy" else (first, second, first + third, second + fourth)


def _size(entry: dict[str, Any]) -> tuple[float, float] | None:
    """The width and height of a photo. Raises ValueError for one without area."""
    width, height = entry.get("width"), entry.get("height")
    if width is None or height is None:
        return None
    if not (_is_number(width) and _is_number(height) and width > 0 and height > 0):
        raise ValueError(f"the photo's width {width!r} and height {height!r} are no sizes in pixels")
    return float(width), float(height)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
