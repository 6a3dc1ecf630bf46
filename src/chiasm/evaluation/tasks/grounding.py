"""Where is it? Phrases that name one thing of an image, each to be answered by its box.

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
from chiasm.evaluation.open_ended import Figure, LenientCredit, OpenEnded
from chiasm.evaluation.request import GenerateRequest, Request, Response, of_type
from chiasm.evaluation.result import Candidate, Example
from chiasm.evaluation.task import Show

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
    counted as unparsed. Phrases that name several regions of an image are left out, and so are images without boxes.
    Constant answers: a box in the middle that is half as wide and high as the image, the whole image and, given
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

    def construct_requests(self, sample: Sample) -> Iterator[GenerateRequest]:
        for number, box in enumerate(unambiguous(sample)):
            parts = (sample.image, asking(self.prompt, box.phrase))
            references = (", ".join(f"{corner:.6f}" for corner in box.corners).join("[]"),)
            yield GenerateRequest(
                f"{sample.key}/{number}",
                Sample(sample.key, parts),
                self.max_tokens,
                references,
                self.boxes,
                sample_key=sample.key,
            )

    def figures(self, requests: Sequence[GenerateRequest], replies: Sequence[str]) -> Sequence[Figure]:
        true_A4 = _corners([request.references[0] for request in requests])
        strict_A, lenient_A = (
            overlap(_corners([read(reply) for reply in replies]), true_A4) for read in (_only_box, _first_box)
        )
        none_A = np.array([_first_box(reply) is None for reply in replies], np.bool_)
        enough_A, loosely_A = ((iou_A >= _ENOUGH).astype(np.float64) for iou_A in (strict_A, lenient_A))
        return (
            Figure(f"IoU >= {_ENOUGH}", enough_A, lenient=LenientCredit(loosely_A, none_A)),
            Figure("mean IoU", strict_A, lenient=LenientCredit(lenient_A, none_A)),
        )

    def constants(self) -> Mapping[str, Sequence[Response]]:
        known: dict[str, Corners] = {"centre box": (0.25, 0.25, 0.75, 0.75), "whole picture": (0, 0, 1, 1)}
        if self.train is not None:
            known["mean box of training"] = self._mean
        return {name: [self._always(request, corners) for request in self.requests] for name, corners in known.items()}

    def _always(self, request: Request, corners: Corners) -> Response:
        return LOCATED.write([corners]) if request.verbs else self.constant(request)

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

    def examples(self, requests: Sequence[Request], responses: Sequence[Response], show: Show) -> Sequence[Example]:
        """With the true box drawn on the image of the request, and the reply's box on the answer."""
        by_key = {request.key: request for _, request in of_type(requests, GenerateRequest)}
        return [
            self._drawn(example, by_key[example.key], show) for example in super().examples(requests, responses, show)
        ]

    def _drawn(self, example: Example, request: GenerateRequest, show: Show) -> Example:
        if not example.query.picture:
            return example
        image, true = request.all_images[0], _box(request.references[0])
        query = replace(example.query, picture=show(_with_boxes(image, [(true, _TRUE)])).picture)
        text = _first_box(example.reply)
        if text is None:
            return replace(example, query=query, earned="no box")
        found = _box(text)
        (iou,) = overlap(np.array([found]), np.array([true])).tolist()
        both = show(_squared(_with_boxes(image, [(true, _TRUE), (found, _FOUND)])))
        earned = f"{'' if example.right or iou < _ENOUGH else 'not alone, '}IoU {iou:.2f}"
        return replace(example, query=query, candidates=(Candidate(both, iou, example.right),), earned=earned)


def _box(text: str) -> Corners:
    first, second, third, fourth = (float(corner) for corner in text.strip("[]").split(","))
    return first, second, third, fourth


def _corners(texts: Sequence[str | None]) -> NDArray[np.float64]:
    """(A, 4); NaN where there is none."""
    rows = [(np.nan,) * 4 if text is None else _box(text) for text in texts]
    return np.array(rows, np.float64).reshape(-1, 4)


def _squared(image: Image) -> Image:
    """The image on a grey square: the report cuts candidates to squares, and boxes may lie at the ends."""
    pixels = image.decode()
    page = PIL.Image.new("RGB", (_SIDE, _SIDE), (128, 128, 128))
    page.paste(pixels, ((_SIDE - pixels.width) // 2, (_SIDE - pixels.height) // 2))
    return Image(np.asarray(page))


def _with_boxes(image: Image, boxes: Sequence[tuple[Corners, tuple[int, int, int]]]) -> Image:
    """The image, its longer side scaled to what examples need, with boxes drawn in their colours."""
    pixels = image.decode(at_least=_SIDE)
    scale = _SIDE / max(pixels.size)
    width, height = (max(1, round(side * scale)) for side in pixels.size)
    scaled = pixels.resize((width, height), PIL.Image.Resampling.LANCZOS)
    pen = PIL.ImageDraw.Draw(scaled)
    for (x0, y0, x1, y1), colour in boxes:
        pen.rectangle((x0 * width, y0 * height, x1 * width - 1, y1 * height - 1), outline=colour, width=4)
    return Image(np.asarray(scaled))
