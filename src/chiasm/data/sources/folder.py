"""Labelled pictures in folders, one folder a class: the layout of torchvision's ImageFolder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import PIL.Image

from chiasm.data.files import inside
from chiasm.data.image import Image
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.errors import DataError


@dataclass(frozen=True)
class Folder(Source):
    """One sample a picture, its class in `meta["label"]`: the name of the folder of `path` that holds it.

    Classes come sorted by name, then the pictures of each, at any depth, by path. A picture is a file with an ending
    that Pillow knows; other files and hidden ones are passed over. A picture that is broken raises DataError, naming
    the file, when it is decoded; so does a link that leads out of the folder, when it is read; a class without pictures
    raises it when the source is first read.
    """

    path: Path

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise DataError(f"there is no folder {self.path}; give one that holds a folder of pictures for each class")

    @cached_property
    def _files(self) -> list[tuple[str, str]]:
        """(label, path below the source's folder, with slashes)."""
        endings = PIL.Image.registered_extensions()
        labels = sorted(one.name for one in self.path.iterdir() if one.is_dir() and not one.name.startswith("."))
        if not labels:
            raise DataError(f"{self.path} holds no folders; each class needs a folder of pictures in it")
        found = []
        for label in labels:
            names = sorted(
                file.relative_to(self.path).as_posix()
                for file in (self.path / label).rglob("*")
                if file.suffix.lower() in endings and not file.name.startswith(".") and file.is_file()
            )
            if not names:
                raise DataError(f"the class folder {self.path / label} holds no pictures; fill it or remove it")
            found += [(label, name) for name in names]
        return found

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        label, name = self._files[index]
        return Sample(key=name, parts=(Image(inside(self.path, name)),), meta={"label": label})
