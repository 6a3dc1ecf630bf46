"""SEED-Bench: multiple-choice questions about pictures, from its one JSON file (Li et al. 2023, arXiv:2307.16125)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from chiasm.data.files import picture, read_json
from chiasm.data.locations import Location
from chiasm.data.sample import Question, Sample
from chiasm.data.source import Source
from chiasm.errors import DataError

_CHOICES = {letter: f"choice_{letter.lower()}" for letter in "ABCD"}


@dataclass(frozen=True)
class SeedBench(Source):
    """One sample a question about a picture, for the task `multiple_choice`; its kind is the type of question.

    path: SEED-Bench.json. images: the folder of the pictures that "data_id" names. Questions about videos are left out.
    """

    path: Location
    images: Location

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise DataError(f"there is no file {self.path}; give SEED-Bench's JSON file")
        if not self.images.is_dir():
            raise DataError(f"there is no folder {self.images} with SEED-Bench's pictures")

    @cached_property
    def _content(self) -> tuple[list[dict[str, Any]], dict[object, str]]:
        """The questions about pictures, and the names of the types of questions by number."""
        content = read_json(self.path)
        rows = content.get("questions") if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{self.path} is not SEED-Bench's file: it has no list of objects called 'questions'")
        types = content.get("question_type")
        names = {number: name for name, number in types.items()} if isinstance(types, dict) else {}
        return [row for row in rows if row.get("data_type", "image") == "image"], names

    def __len__(self) -> int:
        return len(self._content[0])

    def __getitem__(self, index: int) -> Sample:
        rows, names = self._content
        row = rows[index]
        where = f"{self.path}, question '{row.get('question_id', index)}'"
        choices = {letter: row[name] for letter, name in _CHOICES.items() if isinstance(row.get(name), str)}
        texts = [row.get(name) for name in ("question", "data_id", "answer")]
        if not all(isinstance(text, str) and text.strip() for text in texts) or row["answer"] not in choices:
            raise DataError(
                f"{where} needs texts in question, data_id and choices, and the letter of one as its answer"
            )
        if len(set(choices.values())) < len(choices):
            raise DataError(f"{where} has two options of the same text")
        kind = names.get(row.get("question_type_id"), str(row.get("question_type_id", "")))
        asked = Question(row["question"], choices[row["answer"]], kind, tuple(choices.values()))
        return Sample(
            key=f"seed_bench/{row.get('question_id', index)}",
            parts=(picture(self.images, row["data_id"]),),
            questions=(asked,),
        )
