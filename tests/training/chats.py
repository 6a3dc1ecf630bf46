"""Chats for trainings that take a second: about pictures of two colours, or without any; of several lengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from chiasm.data.image import Image
from chiasm.data.sample import Sample, Text
from chiasm.data.source import Source
from chiasm.errors import DataError

COLOURS = ("red", "green", "blue")
LEVELS = ((220, 30, 30), (30, 160, 40), (30, 60, 220))


@dataclass(frozen=True)
class Chats(Source):
    """pictured: which have a picture, by index. broken: indices that cannot be read. long: those with many words."""

    count: int = 48
    imaged: Callable[[int], bool] = bool
    broken: tuple[int, ...] = ()
    long: tuple[int, ...] = ()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index in self.broken:
            raise DataError(f"chat {index} is broken")
        colour = index % 3
        levels = np.full((32, 32, 3), LEVELS[colour], np.uint8)
        words = " ".join(["please"] * (index % 5 + (80 if index in self.long else 0)))
        parts = (
            *((Image(levels),) if self.imaged(index) else ()),
            Text(f"{words} What colour is the ball?", role="user"),
            Text(" ".join([COLOURS[colour]] * (1 + index % 4)), role="assistant", target=True),
        )
        return Sample(f"chat/{index}", parts)
