"""Pictures in memory, and a cache of them."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import PIL.Image
from rich.console import Console

from chiasm.data.cache import DecodedSource, ImageCache
from chiasm.data.image import Image
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.data.transforms import Augment, ImageTransform
from chiasm.errors import DataError

QUIET = Console(quiet=True)
TRANSFORM = ImageTransform(32)
AUGMENTED = replace(TRANSFORM, augment=Augment((0.5, 1.0)))


def jpeg(seed: int, size: tuple[int, int] = (60, 44)) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(noise).resize(size, PIL.Image.Resampling.BICUBIC).save(buffer, format="JPEG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Jpegs(Source):
    """Samples in memory that count how often each was read."""

    samples: tuple[Sample, ...]
    broken: tuple[int, ...] = ()
    read: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        self.read.append(index)
        if index in self.broken:
            raise DataError(f"jpeg {index} is gone")
        return self.samples[index]


def source_of(count: int = 20) -> Jpegs:
    return Jpegs(
        tuple(
            Sample(f"s/{i}", (Image(jpeg(i, (60 + i, 44))),), captions=(f"picture {i}", "another"), meta={"n": i})
            for i in range(count)
        )
    )


def filled(source: Source, folder: Path, transform: ImageTransform = TRANSFORM, **entry: int) -> DecodedSource:
    decoded = DecodedSource(source, transform, ImageCache(folder, **entry), threads=2)
    decoded.fill(QUIET)
    return decoded
