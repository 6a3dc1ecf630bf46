"""Where is it? Phrases that name one thing of a picture, each to be answered by its box.

Accuracy at an IoU of 0.5, as on RefCOCO (Yu et al. 2016, arXiv:1608.00272), and the mean IoU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import PIL.Image
import PIL.ImageDraw
from numpy.typing import NDArray

from chiasm.data.box_format import BoxFormat, Corners
from chiasm.data.box_formats.floats import LOCATED
from chiasm.data.image import Image
from chiasm.data.referring import unambiguous
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.data.sources.referring import asking
from chiasm.errors import DataError, RecipeError
from chiasm.evaluation.answers import Extraction
from chiasm.evaluation.metrics.overlap import overlap
from chiasm.evaluation.open_ended import Figure, OpenEnded, Read
from chiasm.evaluation.result import Candidate, Example
from chiasm.evaluation.task import GenerateRequest, Request, Response, Show

_PHRASE = "{phrase}"
_ENOUGH = 0.5
_LEARNED_FROM = 1000  # boxes of training data of which the mean is taken
_TRUE, _FOUND = (0, 160, 90), (220, 50, 47)  # colours of boxes in examples
_SIDE = 320  # pixels of drawn examples


def _only_box(reply: str) -> str | None:
    """The box of a reply that holds one and nothing unclear; words beside it do not matter."""
    found = LOCATED.read(reply)
    return LOCATED.write([found.boxes[0].corners]) if len(found.boxes) == 1 and not found.unclear else None


def _first_box(reply: str) -> str | None:
    found = LOCATED.read(reply).boxes
    return LOCATED.write([found[0].corners]) if found else None


@dataclass(frozen=True)
class Grounding(OpenEnded):
    """The share of phrases whose box overlaps the true one by an IoU of 0.5 or more, and the mean IoU.

    Strictly read, a reply holds exactly one box; leniently, the first counts. A reply without one earns 0 and is
    counted as unparsed. Phrases that name several regions of a picture are not asked, nor are pictures without boxes.
    Constant answers: a box in the middle that is half as wide and high as the picture, the whole picture and, given
    `train`, its mean box.
    prompt: with {phrase} in its place; for Kosmos-2 "<grounding>{phrase}".
    boxes: how a model without a convention of its own spells boxes, such as one behind an endpoint.
    train: data whose mean box is a baseline.
    """

    rule: ClassVar[Extraction] = Extraction("one box", _only_box, _first_box)

    max_tokens: int = 64
    prompt: str = "Where is {phrase}?"
    boxes: BoxFormat = field(default_factory=lambda: LOCATED)
    train: Source | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt.count(_PHRASE) != 1:
            raise RecipeError(f"the prompt of task '{self.title}' needs {_PHRASE} once, in the phrase's place")

    def ask(self, sample: Sample) -> Iterator[GenerateRequest]:
        for number, box in enumerate(unambiguous(sample)):
            parts = (sample.image, asking(self.prompt, box.phrase))
            true = (", ".join(f"{one:.6f}" for one in box.corners).join("[]"),)
            asked = Sample(sample.key, parts)
            yield GenerateRequest(f"{sample.key}/{number}", asked, self.max_tokens, true=true, boxes=self.boxes)

    def figures(self, asked: Sequence[GenerateRequest], replies: Sequence[str]) -> Sequence[Figure]:
        true_A4 = _corners([question.true[0] for question in asked])
        strict_A, lenient_A = (
            overlap(_corners([read(reply) for reply in replies]), true_A4) for read in (_only_box, _first_box)
        )
        none_A = np.array([_first_box(reply) is None for reply in replies], np.bool_)
        enough_A, loosely_A = ((one >= _ENOUGH).astype(np.float64) for one in (strict_A, lenient_A))
        return (
            Figure(f"IoU >= {_ENOUGH}", enough_A, lenient=Read(loosely_A, none_A)),
            Figure("mean IoU", strict_A, lenient=Read(lenient_A, none_A)),
        )

    def constants(self) -> Mapping[str, Sequence[Response]]:
        known: dict[str, Corners] = {"centre box": (0.25, 0.25, 0.75, 0.75), "whole picture": (0, 0, 1, 1)}
        if self.train is not None:
            known["mean box of training"] = self._mean
        return {name: [self._always(one, corners) for one in self.asked] for name, corners in known.items()}

    def _always(self, question: Request, corners: Corners) -> Response:
        return LOCATED.write([corners]) if isinstance(question, GenerateRequest) else self.constant(question)

    @cached_property
    def _mean(self) -> Corners:
        assert self.train is not None
        count = len(self.train)
        found = []
        for index in range(0, count, max(1, count // _LEARNED_FROM)):
            try:
                found += [box.corners for box in unambiguous(self.train[index])]
            except DataError:
                continue  # the training itself counts and names what cannot be read
        if not found:
            raise DataError(f"task '{self.title}': the training data have no boxes to take the mean of")
        x0, y0, x1, y1 = np.mean(found, axis=0).tolist()
        return x0, y0, x1, y1

    def examples(self, questions: Sequence[Request], answers: Sequence[Response], show: Show) -> Sequence[Example]:
        """With the true box drawn on the picture that is asked about, and the reply's box on what is answered."""
        at = {question.key: place for place, question in enumerate(questions)}
        return [
            self._drawn(example, questions[at[example.key]], show)
            for example in super().examples(questions, answers, show)
        ]

    def _drawn(self, example: Example, question: Request, show: Show) -> Example:
        assert isinstance(question, GenerateRequest)
        if not example.query.picture:
            return example
        picture, true = question.images[0], _box(question.true[0])
        query = replace(example.query, picture=show(_with_boxes(picture, [(true, _TRUE)])).picture)
        text = _first_box(example.reply)
        if text is None:
            return replace(example, query=query, earned="no box")
        found = _box(text)
        (iou,) = overlap(np.array([found]), np.array([true])).tolist()
        both = show(_squared(_with_boxes(picture, [(true, _TRUE), (found, _FOUND)])))
        earned = f"{'' if example.right or iou < _ENOUGH else 'not alone, '}IoU {iou:.2f}"
        return replace(example, query=query, candidates=(Candidate(both, iou, example.right),), earned=earned)


def _box(text: str) -> Corners:
    first, second, third, fourth = (float(one) for one in text.strip("[]").split(","))
    return first, second, third, fourth


def _corners(texts: Sequence[str | None]) -> NDArray[np.float64]:
    """(A, 4); NaN where there is none."""
    rows = [(np.nan,) * 4 if text is None else _box(text) for text in texts]
    return np.array(rows, np.float64).reshape(-1, 4)


def _squared(picture: Image) -> Image:
    """The picture on a grey square: the report cuts candidates to squares, and boxes may lie at the ends."""
    pixels = picture.decode()
    page = PIL.Image.new("RGB", (_SIDE, _SIDE), (128, 128, 128))
    page.paste(pixels, ((_SIDE - pixels.width) // 2, (_SIDE - pixels.height) // 2))
    return Image(np.asarray(page))


def _with_boxes(picture: Image, boxes: Sequence[tuple[Corners, tuple[int, int, int]]]) -> Image:
    """The picture, its longer side scaled to what examples need, with boxes drawn in their colours."""
    pixels = picture.decode(at_least=_SIDE)
    scale = _SIDE / max(pixels.size)
    width, height = (max(1, round(side * scale)) for side in pixels.size)
    scaled = pixels.resize((width, height), PIL.Image.Resampling.LANCZOS)
    pen = PIL.ImageDraw.Draw(scaled)
    for (x0, y0, x1, y1), colour in boxes:
        pen.rectangle((x0 * width, y0 * height, x1 * width - 1, y1 * height - 1), outline=colour, width=4)
    return Image(np.asarray(scaled))
