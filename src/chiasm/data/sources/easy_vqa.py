"""easy-VQA: questions about one coloured shape on a plain ground, as the package easy-vqa brings them.

Small enough to learn on a laptop; what it has of data lies in the package's folder `data`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from chiasm.data.files import inside, read_json
from chiasm.data.locations import Location, image_at
from chiasm.data.sample import Question, Sample
from chiasm.data.source import Source
from chiasm.errors import DataError, RecipeError

_YES_NO = ("yes", "no")
_KINDS = ("yes/no", "shape", "colour")
_SHAPES = ("circle", "rectangle", "triangle")
_COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")


@dataclass(frozen=True)
class EasyVQA(Source):
    """One sample a picture with all its questions.

    path: a folder with questions.json, a list of [question, answer, number of the picture], and images/NUMBER.png.
    The kind of a question follows from its answer: "yes/no", whose choices are these two, "shape" or "colour", with
    statements such as "a blue circle" for models that score captions.
    leave_out: kinds of questions that are not there; nor are pictures that have no others.

    The caption, such as "a blue rectangle", is what all questions about the picture tell together: nine of ten times
    colour and shape, else less ("a rectangle", "a blue shape", "a shape").
    """

    path: Location
    leave_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if unknown := [kind for kind in self.leave_out if kind not in _KINDS]:
            raise RecipeError(f"easy_vqa.leave_out: '{unknown[0]}' is none of its kinds: {', '.join(_KINDS)}")
        if not (self.path / "questions.json").is_file():
            raise DataError(f"there is no questions.json in {self.path}; give easy-vqa's data/train or data/test")

    @cached_property
    def _asked(self) -> dict[int, list[Question]]:
        file = self.path / "questions.json"
        rows = read_json(file)
        found: dict[int, list[Question]] = {}
        for index, row in enumerate(rows if isinstance(rows, list) else [rows]):
            match row:
                case [str(text), str(answer), int(image)]:
                    found.setdefault(image, []).append(_question(text, answer))
                case _:
                    raise DataError(f"{file}, place {index}: expected [question, answer, number of the picture]")
        return found

    @cached_property
    def _images(self) -> list[int]:
        return sorted(
            number for number, asked in self._asked.items() if any(self._is_kept(question) for question in asked)
        )

    def _is_kept(self, question: Question) -> bool:
        return question.kind not in self.leave_out

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        number = self._images[index]
        image = inside(self.path / "images", f"{number}.png")
        if isinstance(image, Path) and not image.is_file():  # a store is not asked twice a picture
            raise DataError(f"there is no picture {image}, which {self.path / 'questions.json'} asks about")
        asked = self._asked[number]
        kept = tuple(question for question in asked if self._is_kept(question))
        return Sample(str(number), (image_at(image),), captions=(_described(asked),), questions=kept)


def _question(text: str, answer: str) -> Question:
    if answer in _YES_NO:
        return Question(text, answer, "yes/no", _YES_NO)
    named = text.rstrip("?").split()
    if answer in _SHAPES:
        colours = [colour for colour in _COLOURS if colour in named]
        return Question(text, answer, "shape", _SHAPES, tuple(_caption(colours, [shape]) for shape in _SHAPES))
    shapes = [shape for shape in _SHAPES if shape in named]
    choices = _COLOURS if answer in _COLOURS else (*_COLOURS, answer)
    return Question(text, answer, "colour", choices, tuple(_caption([colour], shapes) for colour in choices))


def _described(asked: Iterable[Question]) -> str:
    """What all questions and answers together tell of the picture."""
    known: set[str] = set()
    for question in asked:
        words = question.text.rstrip("?").split()
        if question.kind != "yes/no":
            known.add(question.answer)
        if (question.answer == "no") == ("not" in words or "no" in words):  # it is there, and so is what is asked about
            known.update(words)
    return _caption([colour for colour in _COLOURS if colour in known], [shape for shape in _SHAPES if shape in known])


def _caption(colours: Sequence[str], shapes: Sequence[str]) -> str:
    return " ".join(("a", *colours[:1], *(shapes[:1] or ("shape",))))
