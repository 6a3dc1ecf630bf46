"""Documents of texts and pictures in reading order, one JSON object a line, as in OBELICS and MMC4."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from chiasm.data.files import Rows, json_lines, picture
from chiasm.data.locations import Location
from chiasm.data.sample import Part, Sample, Text
from chiasm.data.source import Source
from chiasm.errors import DataError

_LAYOUTS = ("parts", "text_list", "image_info", "texts", "images")  # keys whose values become parts


@dataclass(frozen=True)
class Interleaved(Source):
    """One sample a document; all its texts are what is learned. The key is "file/line".

    path: the .jsonl file. images: the folder that holds the pictures; by default that of the file. A row is one of
    - {"texts": ["...", null], "images": [null, "1.jpg"]}: lists of one length with a text or a picture at each place
      (OBELICS, arXiv:2306.16527); a place where both are null is a picture that was dropped;
    - {"text_list": [...], "image_info": [{"image_name": "1.jpg", "matched_text_index": 0}, ...]}: each picture stands
      before the text that it was matched to (MMC4, arXiv:2304.06939);
    - {"parts": [{"text": "..."}, {"image": "1.jpg"}, ...]}.
    Empty texts are left out. `meta` is what else the row holds. A row that cannot be read raises DataError then.
    """

    path: Location
    images: Location | None = None

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise DataError(f"there is no file of documents at {self.path}; give the path of a .jsonl file")
        if self.images is not None and not self.images.is_dir():
            raise DataError(f"there is no folder {self.images} with the pictures of {self.path}")

    @cached_property
    def _rows(self) -> Rows:
        return json_lines(self.path)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        row, where = self._rows[index], self._rows.where(index)
        layout = _from_parts if "parts" in row else _from_matches if "text_list" in row else _from_lists
        folder = self.images if self.images is not None else self.path.parent
        parts: list[Part] = []
        for kind, content in layout(row, where):
            if not isinstance(content, str):
                raise DataError(
                    f"{where} has {content!r} where the words of a text or the name of an image should stand"
                )
            if kind == "image":
                parts.append(picture(folder, content))
            elif content.strip():
                parts.append(Text(content, target=True))
        if not parts:
            raise DataError(f"{where} is a document without any text or picture")
        meta = {key: value for key, value in row.items() if key not in _LAYOUTS}
        return Sample(key=f"{self.path.stem}/{self._rows.number(index)}", parts=tuple(parts), meta=meta)


def _from_parts(row: dict[str, Any], where: str) -> list[tuple[str, object]]:
    """The parts of a document as (kind, content), kind being "text" or "image"."""
    pieces = []
    for index, part in enumerate(_list(row, "parts", where)):
        if not isinstance(part, dict) or len({"text", "image"} & part.keys()) != 1:
            raise DataError(f"{where}: part {index} needs either 'text' or 'image'")
        pieces += [(kind, part[kind]) for kind in ("text", "image") if kind in part]
    return pieces


def _from_lists(row: dict[str, Any], where: str) -> list[tuple[str, object]]:
    texts, images = _list(row, "texts", where), _list(row, "images", where)
    if len(texts) != len(images):
        raise DataError(f"{where} has {len(texts)} texts but {len(images)} images; fill the gaps with null")
    pieces: list[tuple[str, object]] = []
    for index, (text, image) in enumerate(zip(texts, images, strict=True)):
        if text is not None and image is not None:
            raise DataError(f"{where}: place {index} has both a text and an image, so their order is not known")
        if text is not None or image is not None:
            pieces.append(("image", image) if text is None else ("text", text))
    return pieces


def _from_matches(row: dict[str, Any], where: str) -> list[tuple[str, object]]:
    texts = _list(row, "text_list", where)
    before = defaultdict(list)
    for image in _list(row, "image_info", where):
        match = image.get("matched_text_index") if isinstance(image, dict) else None
        if not isinstance(match, int) or not 0 <= match < len(texts):
            raise DataError(f"{where}: an image is matched to the text {match!r}, of {len(texts)}")
        before[match].append(image.get("image_name"))
    pieces: list[tuple[str, object]] = []
    for index, text in enumerate(texts):
        pieces += [("image", name) for name in before[index]]
        pieces.append(("text", text))
    return pieces


def _list(row: dict[str, Any], key: str, where: str) -> list[Any]:
    if not isinstance(row.get(key), list):
        raise DataError(f"{where} has no list called '{key}'")
    return row[key]
