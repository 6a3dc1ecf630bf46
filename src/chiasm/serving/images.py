"""The pictures below a folder, and their vectors; what cannot be read is named with its reason and passed over."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from torch import Tensor

from chiasm.data.files import inside
from chiasm.data.image import Image
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.errors import DataError


@dataclass(frozen=True)
class Unreadable:
    """Something that could not be used. name: the file or sample; reason: one sentence."""

    name: str
    reason: str


@dataclass(frozen=True)
class Found:
    """A file as the walk met it. name: below the folder, with slashes; size in bytes, changed in nanoseconds."""

    name: str
    size: int
    changed: int


def walk(folder: Path, report: Callable[[Unreadable], None] = lambda _: None) -> Iterator[Found]:
    """The picture files below a folder, at any depth, in an order that does not change; hidden ones are passed over.

    A picture is what a file's ending says: one that Pillow opens, or any other known for pictures (.heic), so that
    what cannot be read is reported. Links to folders are not followed; a link to a file must stay in the folder.
    report: called with each folder that cannot be entered, and each file that cannot be looked at.
    """
    endings = _endings()
    for where, folders, files in os.walk(folder, onerror=lambda error: report(_failed(folder, error))):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(where).relative_to(folder)
        for file in sorted(files):
            if file.startswith(".") or not _is_image(file, endings):
                continue
            name = (below / file).as_posix()
            try:
                path = Path(where, file)
                if path.is_symlink():  # folders that are links are not entered, so only these can lead out
                    inside(folder, name)
                status = path.stat()
            except DataError as error:
                report(Unreadable(name, str(error)))
            except OSError as error:
                report(_failed(folder, error))
            else:
                yield Found(name, status.st_size, status.st_mtime_ns)


def _failed(folder: Path, error: OSError) -> Unreadable:
    name = os.path.relpath(os.fsdecode(error.filename), folder) if error.filename else str(folder)
    return Unreadable(name, f"cannot be looked at: {error.strerror}")


def _endings() -> frozenset[str]:
    PIL.Image.init()
    known = PIL.Image.registered_extensions().items()
    openable = (ending for ending, kind in known if kind in PIL.Image.OPEN and _of_images(PIL.Image.MIME.get(kind)))
    return frozenset(openable)


def _is_image(file: str, endings: frozenset[str]) -> bool:
    return Path(file).suffix.lower() in endings or _of_images(mimetypes.guess_type(file)[0])


def _of_images(mime: str | None) -> bool:
    """Whether a type is one of pictures: PDF and PostScript, which Pillow knows too, are not."""
    return (mime or "").startswith("image/")


def shown(name: str) -> str:
    """A file's name that any terminal and any page can show: bytes that are no UTF-8 are replaced."""
    return os.fsencode(name).decode("utf-8", "replace")


@dataclass(frozen=True)
class ImageCollection(Source):
    """All pictures below a folder, without captions or labels, at any depth."""

    path: Path

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise DataError(f"there is no folder {self.path}")

    @cached_property
    def _names(self) -> list[str]:
        return [found.name for found in walk(self.path)]

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        name = self._names[index]
        return Sample(key=name, parts=(Image(inside(self.path, name)),))


def vectors_of(
    images: Sequence[Image], embed: Callable[[Sequence[Image]], Tensor]
) -> tuple[list[int], NDArray[np.float32], list[tuple[int, str]]]:
    """Embeds what can be embedded: (indices of the sound pictures, their rows, (index, reason) of the others).

    All go together; only where one of them is broken is each tried alone.
    """
    broken: list[tuple[int, str]] = []
    try:
        rows = embed(images).float().cpu().numpy()
        indices = list(range(len(images)))
    except DataError as error:
        if len(images) == 1:
            return [], np.empty(0, np.float32), [(0, str(error))]
        indices, found = [], []
        for index, image in enumerate(images):
            sound, row, reasons = vectors_of([image], embed)
            broken += [(index, reason) for _, reason in reasons]
            indices += [index] * len(sound)
            found += [row] if sound else []
        return indices, np.concatenate(found) if found else np.empty(0, np.float32), broken
    finite = np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
    broken += [(index, "the model makes no numbers of it (NaN)") for index in np.flatnonzero(~finite).tolist()]
    return [index for index in indices if finite[index]], rows[finite], broken
