"""Labelled pictures in folders, one folder a class: the layout of torchvision's ImageFolder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import PIL.Image

from chiasm.data.files import picture
from chiasm.data.locations import Location, Url
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.errors import DataError


@dataclass(frozen=True)
class Folder(Source):
    """One sample a picture, its class in `label`: the name of the folder of `path` that holds it.

    Classes come sorted by name, then the pictures of each, at any depth, by path. A picture is a file with an ending
    that Pillow knows; other files and hidden ones are passed over. A picture that is broken raises DataError, naming
    the file, when it is decoded; so does a link that leads out of the folder, when it is read; a class without pictures
    raises it when the source is first read.
    """

    path: Location

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        """Three classes of six pictures, no two of which are of the same colour."""
        for at in range(18):
            label = ("circle", "square", "star")[at % 3]
            (folder / "classes" / label).mkdir(parents=True, exist_ok=True)
            PIL.Image.new("RGB", (32, 32), (10 * at, 80 * (at % 3), 99)).save(folder / f"classes/{label}/{at}.png")
        return {"path": str(folder / "classes")}

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise DataError(f"there is no folder {self.path}; give one that holds a folder of pictures for each class")

    @cached_property
    def _files(self) -> list[tuple[str, str]]:
        """All files as (label, path below the source's folder, with slashes)."""
        endings = PIL.Image.registered_extensions()
        found = []
        for label, names in _classes(self.path).items():
            files = [PurePosixPath(name) for name in names]
            shown = [file for file in files if file.suffix.lower() in endings and not file.name.startswith(".")]
            if not shown:
                raise DataError(f"the class folder {self.path / label} holds no pictures; fill it or remove it")
            found += [(label, name) for name in sorted(str(file) for file in shown)]
        if not found:
            raise DataError(f"{self.path} holds no folders; each class needs a folder of pictures in it")
        return found

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        label, name = self._files[index]
        return Sample(key=name, parts=(picture(self.path, name),), label=label)


def _classes(folder: Location) -> dict[str, list[str]]:
    """The files of each class folder, at any depth, relative to `folder`; the classes sorted."""
    if isinstance(folder, Url):
        classes: dict[str, list[str]] = {}
        for name in folder.below():
            label, slash, _ = name.partition("/")
            if slash and not label.startswith("."):
                classes.setdefault(label, []).append(name)
        return dict(sorted(classes.items()))
    labels = sorted(child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    return {
        label: [file.relative_to(folder).as_posix() for file in (folder / label).rglob("*") if file.is_file()]
        for label in labels
    }
