"""VQA's JSON files: questions about COCO's photos, each answered by ten people (Antol et al. 2015, arXiv:1505.00468).

The layout of VQA, VQAv2 and OK-VQA: a file of questions and one of annotations."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from chiasm.data.files import inside, read_json
from chiasm.data.locations import Location, Url, image_at
from chiasm.data.sample import Question, Sample
from chiasm.data.source import Source
from chiasm.errors import DataError

_ASKED = 4  # photos by which the names in a store are known


@dataclass(frozen=True)
class VQA(Source):
    """One sample a photo with all its questions, in the order in which the file first asks about it.

    questions: such as v2_OpenEnded_mscoco_val2014_questions.json; annotations: v2_mscoco_val2014_annotations.json.
    images: the folder of photos, under COCO's names: COCO_val2014_000000000042.jpg, or 000000000042.jpg.
        In a store all have names of one of these forms: it is asked about the first few photos alone.
    kind: by what questions are told apart, "answer_type" (yes/no, number, other) or "question_type" ("what is the").
    A question's `answers` are those of all people, its `answer` the one that the file calls the commonest.
    A photo that is absent, and one with a question that has no annotation, raise DataError when they are read.
    """

    questions: Location
    annotations: Location
    images: Location
    kind: Literal["answer_type", "question_type"] = "answer_type"

    def __post_init__(self) -> None:
        for path in (self.questions, self.annotations):
            if not path.is_file():
                raise DataError(f"there is no file of VQA at {path}")
        if not self.images.is_dir():
            raise DataError(f"there is no folder {self.images} with the photos")

    @cached_property
    def _file(self) -> tuple[str, dict[int, list[dict[str, Any]]]]:
        """The photos' subset, which is part of their names ("val2014"), and the questions about each, by its id."""
        content = read_json(self.questions)
        found: dict[int, list[dict[str, Any]]] = {}
        for index, question in enumerate(_rows(content, "questions", self.questions)):
            if not isinstance(question.get("image_id"), int) or not isinstance(question.get("question_id"), int):
                raise DataError(f"{self.questions}: the question at place {index} needs an image_id and a question_id")
            found.setdefault(question["image_id"], []).append(question)
        return str(content.get("data_subtype", "")), found

    @cached_property
    def _photos(self) -> list[int]:
        return list(self._file[1])

    @cached_property
    def _annotated(self) -> dict[object, dict[str, Any]]:
        rows = _rows(read_json(self.annotations), "annotations", self.annotations)
        return {row.get("question_id"): row for row in rows}

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> Sample:
        photo = self._photos[index]
        image = image_at(self._location(photo))
        questions = tuple(self._question(row) for row in self._file[1][photo])
        return Sample(key=str(photo), parts=(image,), questions=questions, meta={"image_id": photo})

    def _names(self, photo: int) -> tuple[str, str]:
        return f"COCO_{self._file[0]}_{photo:012}.jpg", f"{photo:012}.jpg"

    @cached_property
    def _form(self) -> int:
        """Which of the two names the photos in a store have; the first where none of those asked about is there."""
        tried = ((form, name) for photo in self._photos[:_ASKED] for form, name in enumerate(self._names(photo)))
        return next((form for form, name in tried if inside(self.images, name).is_file()), 0)

    def _location(self, photo: int) -> Location:
        names = self._names(photo)
        if isinstance(self.images, Url):  # asked about each photo, it would be slower than all else
            return self.images.inside(names[self._form])
        found = next((path for path in (inside(self.images, name) for name in names) if path.is_file()), None)
        if found is None:
            raise DataError(f"{self.questions}, photo {photo}: neither {names[0]} nor {names[1]} is in {self.images}")
        return found

    def _question(self, row: dict[str, Any]) -> Question:
        number, text = row["question_id"], row.get("question")
        where = f"{self.annotations}, question {number}"
        found = self._annotated.get(number)
        if found is None:
            raise DataError(f"{where} has no annotation")
        given = found.get("answers")
        answers = (
            [answer.get("answer") for answer in given if isinstance(answer, dict)] if isinstance(given, list) else []
        )
        texts = tuple(answer for answer in answers if isinstance(answer, str))
        if not isinstance(text, str) or not text.strip() or not texts or len(texts) < len(answers):
            raise DataError(f"{where} needs a question and a list of answers, each with a text under 'answer'")
        commonest = found.get("multiple_choice_answer", Counter(texts).most_common(1)[0][0])
        return Question(text, str(commonest), str(found.get(self.kind, "")), answers=texts)


def _rows(content: object, part: str, path: Location) -> list[dict[str, Any]]:
    rows = content.get(part) if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} is not one of VQA's files: it has no list of objects called '{part}'")
    return rows
