"""One sample as all checks see it: what is read of it, and decoded, once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import PIL.Image

from chiasm.data.decoding import TooLarge, format_of
from chiasm.data.image import Image
from chiasm.data.processor import Preview, Processor
from chiasm.data.reader import CaptionChoice
from chiasm.data.sample import Sample, Video
from chiasm.data.source import Source
from chiasm.diagnosis.prints import SIDE, Print, print_of
from chiasm.errors import DataError

TRAINING = "training"
Kind = Literal["row", "missing", "empty", "no picture", "broken", "too large"]


@dataclass(frozen=True)
class Trouble:
    """Why a sample cannot be used. kind: by which troubles are counted together."""

    kind: Kind
    reason: str


@dataclass(frozen=True)
class SeenImage:
    """A decoded image. format: of its content, "" for an array. size: (width, height). bytes: its size as a file."""

    image: Image
    key: str
    format: str
    size: tuple[int, int]
    bytes: int
    print_: Print


@dataclass(frozen=True)
class Seen:
    """A sample of a set. sample: None where its row cannot be read. decoded: its images. trouble: why it cannot be
        used, if so.

    preview: of a processor that makes a stream; refused: why the processor cannot take it, in its words.
    """

    set: str
    index: int
    sample: Sample | None = None
    decoded: tuple[SeenImage, ...] = ()
    trouble: Trouble | None = None
    preview: Preview | None = None
    refused: str = ""

    @property
    def name(self) -> str:
        """Its name in findings: "training 17 (dog.jpg)"."""
        return f"{self.set} {self.index}" + (f" ({self.sample.key})" if self.sample is not None else "")

    @property
    def trains(self) -> bool:
        return self.set == TRAINING

    @property
    def texts(self) -> tuple[str, ...]:
        """The sample's captions, or else its texts."""
        if self.sample is None:
            return ()
        return self.sample.captions or tuple(text.text for text in self.sample.texts)

    @property
    def images(self) -> tuple[Image, ...]:
        """Its images that could be decoded."""
        return tuple(seen.image for seen in self.decoded)


def look(name: str, source: Source, index: int, processor: Processor | None, captions: CaptionChoice = "keep") -> Seen:
    """Reads one sample with all its pictures and frames of videos. Whatever is wrong with it is noted in `trouble`, not
    raised.

    processor: that of the model, where there is one. captions: which of a sample's captions a stream is made with in
    training, see data.reader.Reader.
    """
    try:
        sample = source[index]
    except DataError as error:
        return Seen(name, index, trouble=Trouble("row", str(error)))
    seen = Seen(name, index, sample)
    for image in sample.images:
        found = _decoded(image)
        if isinstance(found, Trouble):
            return replace(seen, trouble=found)
        seen = replace(seen, decoded=(*seen.decoded, found))
    for at, video in enumerate(shown for shown in sample.shown if isinstance(shown, Video)):
        for frame, image in enumerate(video.images):  # neighbours look alike, so no check of pictures is shown them
            if isinstance(found := _decoded(image), Trouble):
                return replace(seen, trouble=replace(found, reason=f"frame {frame} of video {at}: {found.reason}"))
    if processor is None or not processor.packs or name != TRAINING:
        return seen
    try:
        return replace(seen, preview=processor.preview(_paired(sample, captions)))
    except DataError as error:
        return replace(seen, refused=str(error))


def _paired(sample: Sample, captions: CaptionChoice) -> Sample:
    """The sample as it is learned; of several captions that may be drawn, with the longest."""
    if captions == "keep" or not sample.captions:
        return sample
    return sample.with_caption(sample.captions[0] if captions == "first" else max(sample.captions, key=len))


def _decoded(image: Image) -> SeenImage | Trouble:
    if isinstance(image.source, np.ndarray):
        height, width = image.source.shape[:2]
        small = PIL.Image.fromarray(image.source)
        return SeenImage(image, image.key, "", (width, height), 0, print_of(small))
    try:
        content = image.encoded()
    except DataError as error:
        absent = isinstance(image.source, Path) and not image.source.exists()
        return Trouble("missing" if absent else "row", str(error))
    if not content:
        return Trouble("empty", f"{image.name} is an empty file")
    inside = Image(content)
    kind: Kind = "no picture"
    try:
        size = inside.size
        kind = "broken"
        small = inside.decode(at_least=SIDE)
    except DataError as error:
        reason = str(error).replace(inside.name, image.name)
        return Trouble("too large" if isinstance(error, TooLarge) else kind, reason)
    return SeenImage(image, inside.key, format_of(content, image.name), size, len(content), print_of(small))
