"""COCO's JSON files: photos with captions, with boxes of things, or with both (Lin et al. 2014, arXiv:1405.0312)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from chiasm.data.files import check_shape, inside, read_json
from chiasm.data.locations import Location, image_at
from chiasm.data.sample import Box, Sample
from chiasm.data.source import Source
from chiasm.errors import DataError


@dataclass(frozen=True)
class _File:
    """One of COCO's files. annotations, sizes: by the id of their photo. categories: their names, by id."""

    path: Location
    photos: list[dict[str, Any]]
    annotations: dict[int | str, list[dict[str, Any]]]
    sizes: dict[int | str, tuple[Any, Any]]
    categories: dict[int | str, Any]


@dataclass(frozen=True)
class Coco(Source):
    """One sample a photo, in the order of the file's "images"; the key is the photo's file name.

    images: the folder of the photos.
    captions: a file like captions_val2017.json. instances: one like instances_val2017.json. With both, the photos are
        those of `captions`, and `instances` adds their boxes.
    A box is relative to the width and height that its file states, and clipped to the picture; its phrase is the
    name of its category. Crowds, boxes without area inside the picture, keypoints and outlines are left out, and so
    are annotations of photos that "images" does not list. `meta` is what else the file says of the photo.
    A photo that is absent, listed twice or wrongly annotated raises DataError, naming it, when it is read.
    """

    images: Location
    captions: Location | None = None
    instances: Location | None = None

    def __post_init__(self) -> None:
        if not self.images.is_dir():
            raise DataError(f"there is no folder {self.images} with the photos")
        if self.captions is None and self.instances is None:
            raise DataError("give COCO's captions file, its instances file, or both")
        for path in (self.captions, self.instances):
            if path is not None and not path.is_file():
                raise DataError(f"there is no COCO file at {path}")

    @cached_property
    def _files(self) -> tuple[_File | None, _File | None]:
        """The captions file and the instances file, without what is not used: outlines are most of their size."""
        captions = None if self.captions is None else _load(self.captions, ("caption",))
        boxes = ("bbox", "category_id", "iscrowd")
        return captions, None if self.instances is None else _load(self.instances, boxes)

    @cached_property
    def _listing(self) -> _File:
        captions, instances = self._files
        listing = captions or instances
        assert listing is not None  # __post_init__ saw to it
        return listing

    @cached_property
    def _counts(self) -> Counter[tuple[str, object]]:
        """How often each (key, id) and (key, file name) is listed."""
        values = ((key, photo.get(key)) for photo in self._listing.photos for key in ("id", "file_name"))
        return Counter(value for value in values if isinstance(value[1], (int, str)))

    def __len__(self) -> int:
        return len(self._listing.photos)

    def __getitem__(self, index: int) -> Sample:
        photo = self._listing.photos[index]
        name, number = photo.get("file_name"), photo.get("id")
        where = f"{self._listing.path}, photo '{name}'"
        if not isinstance(name, str) or not isinstance(number, int | str):
            raise DataError(
                f"{self._listing.path}: the photo at place {index} needs an id (a number or a text) and a file_name"
            )
        if self._counts["file_name", name] > 1 or self._counts["id", number] > 1:
            raise DataError(f"{where}: its name or its id {number} is listed more than once under 'images'")
        where_it_is = inside(self.images, name)
        if isinstance(where_it_is, Path) and not where_it_is.is_file():  # a store is not asked twice a photo
            raise DataError(f"{where} is not in the folder {self.images}")
        captions, instances = self._files
        image = image_at(where_it_is)
        boxes = _boxes(instances, number, where) if instances else ()
        if instances is not None and boxes:
            check_shape(image, instances.sizes[number], where)
        return Sample(
            key=name,
            parts=(image,),
            captions=_captions(captions.annotations.get(number, []), where) if captions else (),
            boxes=boxes,
            meta={key: value for key, value in photo.items() if key != "file_name"},
        )


def _load(path: Location, keys: tuple[str, ...]) -> _File:
    content = read_json(path)
    parts: dict[str, list[dict[str, Any]]] = {}
    for part in ("images", "annotations", "categories"):
        found = content.get(part, [] if part == "categories" else None) if isinstance(content, dict) else None
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise DataError(f"{path} is not one of COCO's files: it has no list of objects called '{part}'")
        parts[part] = found
    annotations = defaultdict(list)
    for index, annotation in enumerate(parts["annotations"]):
        if not isinstance(annotation.get("image_id"), int | str):
            found = f"an image_id that is {annotation['image_id']!r}" if "image_id" in annotation else "no image_id"
            raise DataError(f"{path}: the annotation at place {index} has {found}, so its photo is not known")
        annotations[annotation["image_id"]].append({key: annotation[key] for key in keys if key in annotation})
    categories = {
        category["id"]: category.get("name")
        for category in parts["categories"]
        if isinstance(category.get("id"), int | str)
    }
    sizes = {
        image["id"]: (image.get("width"), image.get("height"))
        for image in parts["images"]
        if isinstance(image.get("id"), int | str)
    }
    return _File(path, parts["images"], dict(annotations), sizes, categories)


def _captions(annotations: list[dict[str, Any]], where: str) -> tuple[str, ...]:
    captions = [annotation.get("caption") for annotation in annotations]
    texts = [caption.strip() for caption in captions if isinstance(caption, str)]
    if len(texts) < len(captions):
        raise DataError(f"{where} has an annotation without a caption")
    if not any(texts):
        raise DataError(f"{where} has no caption that is not empty")
    return tuple(text for text in texts if text)


def _boxes(file: _File, photo: int | str, where: str) -> tuple[Box, ...]:
    if photo not in file.sizes:
        return ()
    width, height = file.sizes[photo]
    if not (_is_number(width) and _is_number(height) and width > 0 and height > 0):
        raise DataError(f"{where} needs a width and a height in pixels, not {width!r} and {height!r}")
    boxes = []
    for annotation in file.annotations.get(photo, []):
        if annotation.get("iscrowd"):
            continue
        category, corners = annotation.get("category_id"), annotation.get("bbox")
        phrase = file.categories.get(category) if isinstance(category, int | str) else None
        if not isinstance(phrase, str):
            raise DataError(f"{where} has a box of category {category!r}, which 'categories' does not name")
        if not isinstance(corners, list) or len(corners) != 4 or not all(_is_number(number) for number in corners):
            raise DataError(f"{where} has a '{phrase}' whose bbox {corners!r} is not [x, y, width, height]")
        left, top, across, down = corners
        x0, x1 = (min(max(x / width, 0.0), 1.0) for x in (left, left + across))
        y0, y1 = (min(max(y / height, 0.0), 1.0) for y in (top, top + down))
        if x0 < x1 and y0 < y1:
            boxes.append(Box((x0, y0, x1, y1), phrase))
    return tuple(boxes)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
