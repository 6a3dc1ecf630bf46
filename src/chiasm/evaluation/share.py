"""Evaluation in several processes: each has a share of the images, with files of its own in one cache."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from chiasm.errors import RecipeError


@dataclass(frozen=True)
class Share:
    """The requests about every `of`-th image, `place` being 1 to `of`."""

    place: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.place <= self.of:
            raise RecipeError(f"share {self.place}/{self.of} is none: of {self.of} there are 1 to {self.of}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """ "2/4" is the second of four."""
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None:
            raise RecipeError(f"a share is written as 2/4, the second of four, not as '{text}'")
        return cls(int(found[1]), int(found[2]))

    def folder(self, cache: Path) -> Path:
        """The folder of this process's responses; the first process uses that of a single process."""
        return cache if self.place == 1 else cache / f"share-{self.place}"

    def others(self, cache: Path) -> list[Path]:
        """The folders of other processes, whatever their number was before."""
        return [folder for folder in (cache, *sorted(cache.glob("share-*"))) if folder != self.folder(cache)]

    def mine(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys that are in this share, by the order in which they first come."""
        return set(list(dict.fromkeys(keys))[self.place - 1 :: self.of])

    def __str__(self) -> str:
        return f"{self.place}/{self.of}"
