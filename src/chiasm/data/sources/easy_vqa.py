"""easy-VQA: questions about one coloured shape on a plain ground, as the package easy-vqa brings them.

Small enough to learn on a laptop; what it has of data lies in the package's folder `data`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from chiasm.data.files import inside, read_json
from chiasm.data.places import Place, image_at
from chiasm.data.sample import Question, Sample
from chiasm.data.source import Source
from chiasm.errors import DataError, RecipeError

_YES_NO = ("yes", "no")
_KINDS = ("yes/no", "shape", "colour")
_SHAPES = ("circle", "rectangle", "triangle")


@dataclass(frozen=True)
class EasyVQA(Source):
    """One sample a picture with all its questions.

    path: a folder with questions.json, a list of [question, answer, number of the picture], and images/NUMBER.png.
    The kind of a question follows from its answer: "yes/no", whose choices are these two, "shape" or "colour".
    leave_out: kinds of questions that are not there; nor are pictures that have no others.
    """

    path: Place
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
        for place, row in enumerate(rows if isinstance(rows, list) else [rows]):
            match row:
                case [str(text), str(answer), int(picture)]:
                    question = _question(text, answer)
                    if question.kind not in self.leave_out:
                        found.setdefault(picture, []).append(question)
                case _:
                    raise DataError(f"{file}, place {place}: expected [question, answer, number of the picture]")
        return found

    @cached_property
    def _pictures(self) -> list[int]:
        return sorted(self._asked)

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Sample:
        number = self._pictures[index]
        picture = inside(self.path / "images", f"{number}.png")
        if isinstance(picture, Path) and not picture.is_file():  # a store is not asked twice a picture
            raise DataError(f"there is no picture {picture}, which {self.path / 'questions.json'} asks about")
        return Sample(key=str(number), parts=(image_at(picture),), questions=tuple(self._asked[number]))


def _question(text: str, answer: str) -> Question:
    if answer in _YES_NO:
        return Question(text, answer, "yes/no", _YES_NO)
    return Question(text, answer, "shape" if answer in _SHAPES else "colour")
