"""Referring expressions: phrases of another source's boxes, each answered by the box alone."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np

from chiasm.data.referring import unambiguous
from chiasm.data.sample import Box, GroundedSpan, Sample, Text
from chiasm.data.source import Derived
from chiasm.errors import DataError, RecipeError

_PHRASE = "{phrase}"
_TRIES = 100


@dataclass(frozen=True)
class Referring(Derived):
    """The samples of a source that has boxes, each as a chat: where is this thing? Its box is what is learned.

    of: the source. turns: the most phrases asked about in one sample; which ones, and in which order, follows from its
        key.
    question: with {phrase} in its place. Phrases that name several regions of a picture are left out.
    A sample without any such phrase is replaced by the next that has one; where a hundred have none it is an error.
    """

    turns: int = 1
    question: str = "Where is {phrase}?"

    def __post_init__(self) -> None:
        if self.question.count(_PHRASE) != 1:
            raise RecipeError(f"referring.question: '{self.question}' needs {_PHRASE} once, in the phrase's place")
        if self.turns < 1:
            raise RecipeError(f"referring.turns must be at least 1, not {self.turns}")

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        for step in range(min(_TRIES, len(self))):
            sample = self.of[(index + step) % len(self)]
            if boxes := unambiguous(sample):
                return self._asked(sample, boxes)
        raise DataError(f"{self.called(index)}: neither it nor those behind it have a phrase that names one region")

    def _asked(self, sample: Sample, boxes: tuple[Box, ...]) -> Sample:
        order = np.random.default_rng(zlib.crc32(sample.key.encode())).permutation(len(boxes))
        texts: list[Text] = []
        for at in order[: self.turns].tolist():
            texts.append(asking(self.question, boxes[at].phrase))
            texts.append(Text("", "assistant", target=True, grounded_spans=(GroundedSpan((0, 0), (boxes[at],)),)))
        return replace(sample, parts=(*sample.images, *texts), questions=(), negatives=())


def asking(question: str, phrase: str) -> Text:
    """The question as the user's text, its phrase marked as one that means a region."""
    first = question.index(_PHRASE)
    return Text(question.replace(_PHRASE, phrase), "user", grounded_spans=(GroundedSpan((first, first + len(phrase))),))
