"""Data that every task can ask about, and what is true of them."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields, replace
from typing import Any, get_type_hints

from chiasm.data.image import Image
from chiasm.data.sample import Box, Negative, Question, Sample, Text
from chiasm.data.source import Source
from chiasm.evaluation.request import (
    GenerateRequest,
)
from chiasm.evaluation.task import Task
from tests.evaluation.fakes import Listed, number_of, picture

LABELS = ("cat", "dog", "horse", "owl", "fox", "crab")
_THINGS = ("cup", "lamp", "chair", "plate", "book", "clock", "vase")
_PLACES = ((0.0, 0.0, 0.5, 0.5), (0.5, 0.0, 1.0, 0.4), (0.25, 0.5, 0.75, 1.0))


def one_image(at: int) -> Sample:
    """A sample with one image, of which everything is known: no two are alike in any word that counts."""
    label, things = LABELS[at % 6], [_THINGS[(at + step) % 7] for step in (0, 1, 3)]
    right, offered = f"number {at}", (f"number {at}", f"number {at + 1}", f"number {at + 2}")
    return Sample(
        f"s{at}",
        (picture(at),),
        captions=(f"the {label}{at} sits near wall{at} under roof{at} beside gate{at}",),
        boxes=tuple(Box(corners, thing) for corners, thing in zip(_PLACES, things, strict=True)),
        negatives=(Negative(f"image {at + 1}", f"image {at}", "number"), Negative(f"no {at}", f"some {at}", "denied")),
        questions=(
            Question("which?", right, "counting", offered, tuple(f"this is {one}" for one in offered)),
            Question(f"is it {at}?", "yes", "checking", ("yes", "no"), (f"it is {at}", f"it is not {at}")),
        ),
        label=label,
        meta={"group": f"g{at % 2}"},
    )


def two_images(at: int) -> Sample:
    """A sample of two images and two texts, as Winoground's."""
    parts = picture(2 * at), picture(2 * at + 1), Text(f"left of {at}"), Text(f"right of {at}")
    return Sample(f"p{at}", parts, meta={"kind": f"k{at % 2}"})


def worlds(count: int, start: int = 0) -> tuple[Listed, ...]:
    """Everything that a task may want to ask about."""
    places = range(start, start + count)
    return Listed(tuple(map(one_image, places))), Listed(tuple(map(two_images, places)))


def made(kind: type[Task], count: int = 12, start: int = 0, broken: tuple[str, ...] = (), **settings: Any) -> Task:
    """A task of this kind on the first world about which it has requests; what else it needs are 60 samples more."""
    hints = get_type_hints(kind)
    for data, more in zip(worlds(count, start), worlds(60, 1000), strict=True):
        needed = {
            field.name: more
            for field in fields(kind)
            if field.name != "data" and field.default is MISSING and field.default_factory is MISSING
            and isinstance(hints[field.name], type) and issubclass(hints[field.name], Source)
        }  # fmt: skip
        task = kind(**{"data": data, **needed, **settings})
        if any(request.verbs for request in task.build_all_requests()):
            return task if not broken else replace(task, data=replace(data, broken=broken))
    raise AssertionError(f"{kind.__name__} asks about none of the worlds; give task_data.py a sample that it can use")


def label_of(image: Image) -> str:
    """The class of an image of the world."""
    return LABELS[number_of(image) % 6]


def is_true(image: Image, text: str) -> bool:
    """Whether the world says this of an image."""
    at = number_of(image)
    sample, things = one_image(at), {box.phrase for box in one_image(at).boxes}
    for question in sample.questions:
        said = dict(zip(question.choices, question.statements, strict=True))
        if text in (f"{question.text} {question.answer}", said[question.answer]):
            return True
    if found := re.fullmatch(r"there is (no|an?) (\w+)", text):
        return (found[2] in things) == (found[1] != "no")
    known = {*sample.captions, *(negative.true for negative in sample.negatives), f"a photo of a {label_of(image)}."}
    if at % 2 == 0:
        known.add(f"left of {at // 2}")  # of a pair, the first
    return text in known


def answer_to(request: GenerateRequest) -> str:
    """The world's answer to the question that a request puts."""
    asked = request.sample.texts[-1].text
    sample = one_image(number_of(request.all_images[0]))
    if found := re.search(r"Is there an? (\w+) in", asked):
        return "yes" if found[1] in {box.phrase for box in sample.boxes} else "no"
    (answer,) = [question.answer for question in sample.questions if question.text in asked]
    return answer


def right_answers(request: GenerateRequest) -> tuple[str, ...]:
    """What the world has for answers to a request: a box, captions, or the answer to a question."""
    sample, asked = one_image(number_of(request.all_images[0])), request.sample.texts[-1].text
    if found := re.fullmatch(r"Where is (\w+)\?", asked):
        (box,) = [box for box in sample.boxes if box.phrase == found[1]]
        return (f"[{', '.join(f'{corner:.6f}' for corner in box.corners)}]",)
    return sample.captions if "Describe" in asked else (answer_to(request),)
