"""ScienceQA: school questions with options and pictures, from problems.json (Lu et al. 2022, arXiv:2209.09513)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from chiasm.data.files import picture, read_json
from chiasm.data.locations import Location
from chiasm.data.sample import Question, Sample
from chiasm.data.source import Source
from chiasm.errors import DataError


@dataclass(frozen=True)
class ScienceQA(Source):
    """One sample a question that has a picture, for the task `multiple_choice`; its kind is the question's subject.

    path: problems.json. images: the folder with a folder of pictures a split, `test/123/image.png`; by default `images`
    beside the file. split: train, val or test. A hint stands before the question.
    """

    path: Location
    images: Location | None = None
    split: str = "test"

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise DataError(f"there is no file {self.path}; give ScienceQA's problems.json")
        if not self._folder.is_dir():
            raise DataError(f"there is no folder {self._folder} with ScienceQA's pictures")

    @property
    def _folder(self) -> Location:
        return self.images if self.images is not None else self.path.parent / "images"

    @cached_property
    def _rows(self) -> list[tuple[str, dict[str, Any]]]:
        content = read_json(self.path)
        if not isinstance(content, dict) or not all(isinstance(row, dict) for row in content.values()):
            raise DataError(f"{self.path} is not ScienceQA's problems.json: it holds no object of numbered questions")
        return [(key, row) for key, row in content.items() if row.get("split") == self.split and row.get("image")]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        key, row = self._rows[index]
        where, choices, answer = f"{self.path}, question {key}", row.get("choices"), row.get("answer")
        if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
            raise DataError(f"{where} needs a list of texts in 'choices'")
        if not isinstance(answer, int) or not 0 <= answer < len(choices) or choices.count(choices[answer]) > 1:
            raise DataError(f"{where} needs in 'answer' the place of one of its {len(choices)} choices")
        texts = [str(row.get(name) or "").strip() for name in ("hint", "question")]
        if not texts[1]:
            raise DataError(f"{where} has no question")
        question = "\n".join(text for text in texts if text)
        return Sample(
            key=f"scienceqa/{key}",
            parts=(picture(self._folder, f"{self.split}/{key}/{row['image']}"),),
            questions=(Question(question, choices[answer], str(row.get("subject", "")), tuple(choices)),),
            meta={name: row[name] for name in ("subject", "topic", "grade", "split") if name in row},
        )
