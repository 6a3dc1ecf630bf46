"""Pictures with captions: a row each in a .jsonl, .csv or .tsv file, `{"image": "1.jpg", "captions": ["...", ...]}`."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chiasm.config import suggest
from chiasm.data.files import Rows, json_lines, picture, separated
from chiasm.data.locations import Location
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.errors import DataError

_IMAGE_KEYS = ("image", "filepath")
_CAPTION_KEYS = ("captions", "caption", "title")
_READERS: dict[str, Callable[[Location], Rows]] = {
    ".jsonl": json_lines,
    ".csv": lambda path: separated(path, ","),
    ".tsv": lambda path: separated(path, "\t"),
}


@dataclass(frozen=True)
class Captions(Source):
    """A file of pictures and captions. Rows that name the same picture are one sample, wherever they stand.

    Such a sample stands at the index of its first row and has the captions of all of them, in order; its `meta` is what
    else the first row holds. Empty captions are dropped. The key is the picture's name.

    path: the file; its suffix says how it is read: .jsonl (objects, one a line), .csv or .tsv (with a row of names).
    images: the folder that holds the pictures; by default that of the file.
    split: keeps only the rows whose "split" is this.
    image_key, caption_key: where a row names its picture and its captions (one text, or a list of texts); by default
        image or filepath, and captions, caption or title.
    A row that cannot be read raises DataError, naming it, when it is read; so does one without any caption.
    """

    path: Location
    images: Location | None = None
    split: str | None = None
    image_key: str | None = None
    caption_key: str | None = None

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise DataError(f"there is no caption file at {self.path}; give the path of a .jsonl, .csv or .tsv file")
        if self.path.suffix not in _READERS:
            raise DataError(f"{self.path} ends in '{self.path.suffix}'{suggest(self.path.suffix, _READERS)}")
        if self.images is not None and not self.images.is_dir():
            raise DataError(f"there is no folder {self.images} with the pictures of {self.path}")

    @cached_property
    def _rows(self) -> Rows:
        return _READERS[self.path.suffix](self.path)

    @cached_property
    def _groups(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows in the order of their samples, and where the rows of each sample begin among them."""
        kept, digests = array("q"), array("q")
        splits = set()
        for index, row in enumerate(self._rows.each()):
            if row is not None and self.split is not None and row.get("split") != self.split:
                splits.add(str(row.get("split")))
                continue
            _, name = _find(row or {}, self.image_key, _IMAGE_KEYS)
            kept.append(index)
            # A row that names no picture is a sample of its own, which raises when it is read.
            digests.append(_digest(f"image {name}" if isinstance(name, str) else f"row {index}"))
        if splits and not kept:
            raise DataError(f"{self.path} has no row whose split is '{self.split}'{suggest(str(self.split), splits)}")
        _, first, image = np.unique(np.asarray(digests, np.int64), return_index=True, return_inverse=True)
        sample = np.argsort(np.argsort(first))[image]  # numbered by first appearance
        order = np.argsort(sample, kind="stable")
        return np.asarray(kept, np.int64)[order], np.searchsorted(sample[order], np.arange(len(first) + 1))

    def __len__(self) -> int:
        return len(self._groups[1]) - 1

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        rows, starts = self._groups
        numbers = rows[starts[index] : starts[index + 1]].tolist()
        read = [self._read(number) for number in numbers]
        name, _, meta = read[0]
        captions = tuple(caption for _, captions, _ in read for caption in captions)
        if not captions:
            raise DataError(f"{self._rows.where(numbers[0])}: the picture '{name}' has no caption that is not empty")
        folder = self.images if self.images is not None else self.path.parent
        return Sample(key=name, parts=(picture(folder, name),), captions=captions, meta=meta)

    def _read(self, number: int) -> tuple[str, list[str], dict[str, Any]]:
        """The picture's name, the captions, and what else a row holds."""
        row, where = self._rows[number], self._rows.where(number)
        image_key, name = _find(row, self.image_key, _IMAGE_KEYS)
        caption_key, captions = _find(row, self.caption_key, _CAPTION_KEYS)
        if not isinstance(name, str):
            raise DataError(f"{where} names no picture: it has no text under '{image_key}'")
        texts = [captions] if isinstance(captions, str) else captions
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{where} has no captions: '{caption_key}' must hold a text or a list of texts")
        rest = {key: value for key, value in row.items() if key not in (image_key, caption_key)}
        return name, [text.strip() for text in texts if text.strip()], rest


def _find(row: dict[str, Any], key: str | None, usual: tuple[str, ...]) -> tuple[str, object]:
    """The first of these keys that a row has, and its value."""
    names = usual if key is None else (key,)
    found = next((name for name in names if name in row), None)
    return (" or ".join(names), None) if found is None else (found, row[found])


def _digest(name: str) -> int:
    """64 bits of a hash, signed: names of millions of pictures would fill the memory."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)
