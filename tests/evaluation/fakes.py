"""Sources that live in memory, and models whose every answer is known."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chiasm.data.image import Image
from chiasm.data.sample import Negative, Question, Sample, Text
from chiasm.data.source import Source
from chiasm.errors import DataError


@dataclass(frozen=True)
class Listed(Source):
    """The samples given; one whose key is among `broken` cannot be read."""

    samples: tuple[Sample, ...]
    broken: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        if self.samples[index].key in self.broken:
            raise DataError(f"{self.samples[index].key} is broken")
        return self.samples[index]


def picture(number: int) -> Image:
    """A 4-pixel picture that tells its number."""
    return Image(np.full((2, 2, 3), (number // 256, number % 256, 7), np.uint8))


def number_of(image: Image) -> int:
    """The number of a `picture`; -1 for any other."""
    levels = np.asarray(image.decode())
    return int(levels[0, 0, 0]) * 256 + int(levels[0, 0, 1]) if levels[0, 0, 2] == 7 else -1


def undecodable() -> Image:
    return Image(b"\xff\xd8 no picture")


COLOURS = ("red", "green", "blue", "white", "black")


def world(count: int, captions: int = 2) -> Listed:
    """Samples of everything: captions with the picture's number in them, two kinds of negatives and questions."""
    samples = []
    for at in range(count):
        colour, shown = COLOURS[at % 5], COLOURS[: 2 + at % 4]
        right = shown[at % len(shown)]
        samples.append(
            Sample(
                key=f"s{at}",
                parts=(picture(at),),
                captions=tuple(f"picture {at}, caption {one}" for one in range(captions)),
                negatives=(
                    Negative(f"picture {at + 1} here", f"picture {at} here", "number"),
                    Negative(f"no picture {at}", f"picture {at}", "negation"),
                ),
                questions=(
                    Question("which?", right, "colour", shown, tuple(f"picture {at}: {one}" for one in shown)),
                    Question("how?", "this", "open"),
                ),
                label=colour,
                meta={"answer": right},
            )
        )
    return Listed(tuple(samples))


class Counting:
    """Counts what it is asked, and stops by an error where `stop_after` pictures, scores or replies were given."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.pictures: list[str] = []
        self.texts: list[str] = []
        self.asked: list[str] = []
        self.stop_after = stop_after

    def _count(self, log: list[str], keys: Sequence[str]) -> None:
        if self.stop_after is not None and len(log) + len(keys) > self.stop_after:
            raise KeyboardInterrupt
        log += keys


class HashEmbedder(Counting):
    """Unit vectors drawn from the hash of the content: a random scorer, the same at every call."""

    def __init__(self, width: int = 16, seed: int = 0, stop_after: int | None = None) -> None:
        super().__init__(stop_after)
        self.width, self.seed = width, seed

    def _drawn(self, contents: Sequence[str]) -> Tensor:
        rows = []
        for content in contents:
            digest = hashlib.blake2b(f"{self.seed}/{content}".encode(), digest_size=8).digest()
            row = np.random.default_rng(int.from_bytes(digest)).normal(size=self.width)
            rows.append(row / np.linalg.norm(row))
        return torch.tensor(np.array(rows), dtype=torch.float32)

    def embed_images(self, images: Sequence[Image]) -> Tensor:
        for image in images:
            image.decode()
        self._count(self.pictures, [image.key for image in images])
        return self._drawn([image.key for image in images])

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        self._count(self.texts, texts)
        return self._drawn(texts)


class ConstantEmbedder(HashEmbedder):
    """The same vector for everything, one whose products do not come out even."""

    def _drawn(self, contents: Sequence[str]) -> Tensor:
        row = torch.linspace(0.1, 1.7, self.width)
        return (row / row.norm()).expand(len(contents), -1).clone()


class FunctionScorer(Counting):
    """Scores by a function of the picture's number and the text."""

    def __init__(self, function: Callable[[int, str], float], stop_after: int | None = None) -> None:
        super().__init__(stop_after)
        self.function = function

    def score(self, images: Sequence[Image], texts: Sequence[str]) -> Tensor:
        numbers = [number_of(image) for image in images]
        self._count(self.asked, [f"{numbers}|{texts[0]}"])
        return torch.tensor([[self.function(number, text) for text in texts] for number in numbers])


def sees(number: int, text: str) -> float:
    """An oracle of `world`'s captions and negatives: right as long as it sees the picture, blind to all else."""
    return float(f"picture {number} " in f"{text} " or f"picture {number}," in text) - 2.0 * text.startswith("no ")


class Echo(Counting):
    """A generator that replies with the picture's number."""

    def generate(self, samples: Sequence[Sample], *, max_tokens: int) -> list[Sample]:
        replies = [str(number_of(sample.image)) for sample in samples]
        self._count(self.asked, [sample.key for sample in samples])
        return [
            replace(one, parts=(*one.parts, Text(f"number {reply}", target=True)))
            for one, reply in zip(samples, replies, strict=True)
        ]


def matrix_of(rows: Sequence[Sequence[float]]) -> NDArray[np.float32]:
    return np.array(rows, np.float32)
