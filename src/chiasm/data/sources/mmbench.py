"""MMBench's tables: multiple-choice questions with their pictures in base64, a row each (Liu et al. 2023).

arXiv:2307.06281. Tab-separated: index, question, A to D, image, and where known answer and category."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from chiasm.data.files import Rows, separated
from chiasm.data.image import Image
from chiasm.data.sample import Question, Sample
from chiasm.data.source import Source
from chiasm.errors import DataError

_LETTERS = "ABCDEFGH"
_SHORT = 64  # characters; what is shorter is no picture but the index of the row that holds it
_CIRCULAR = 1_000_000  # rows of the published circular files repeat a question under its index plus multiples of this


@dataclass(frozen=True)
class MMBench(Source):
    """One sample a question, for the task `multiple_choice`; its kind is the row's category.

    path: such as MMBench_DEV_EN.tsv. A hint stands before the question. Rows that repeat a question in another rotation
    are left out: the task rotates the options itself (`order: circular`). A row without an answer, as in the test
    split, raises DataError when it is read.
    """

    path: Path

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise DataError(f"there is no table {self.path}; give one of MMBench's .tsv files")

    @cached_property
    def _rows(self) -> Rows:
        return separated(self.path, "\t")

    @cached_property
    def _places(self) -> dict[str, int]:
        """The place of each question's row, by its index in the table."""
        found = {str(row["index"]): at for at, row in enumerate(self._rows.each()) if row and "index" in row}
        if not found:
            raise DataError(f"{self.path} is no table of MMBench: it has no column 'index'")
        return {index: at for index, at in found.items() if not index.isdecimal() or int(index) < _CIRCULAR}

    @cached_property
    def _numbers(self) -> list[str]:
        return list(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        number = self._numbers[index]
        place = self._places[number]
        row, where = self._rows[place], self._rows.where(place)
        choices = {letter: row[letter].strip() for letter in _LETTERS if _told(row.get(letter))}
        question, answer = row.get("question", "").strip(), row.get("answer", "").strip()
        if not question or answer not in choices:
            raise DataError(f"{where} needs a question and an answer that is one of {', '.join(choices) or 'A to D'}")
        hint = row.get("hint", "").strip()
        told = f"{hint}\n{question}" if _told(hint) else question
        if len(set(choices.values())) < len(choices):
            raise DataError(f"{where} has two options of the same text")
        return Sample(
            key=f"mmbench/{number}",
            parts=(Image(self._picture(row.get("image", ""), where)),),
            questions=(Question(told, choices[answer], row.get("category", ""), tuple(choices.values())),),
            meta={name: row[name] for name in ("category", "l2-category", "split", "source") if name in row},
        )

    def _picture(self, content: str, where: str) -> bytes:
        if len(content) < _SHORT:
            if content not in self._places:
                raise DataError(f"{where} has '{content}' for its picture, which is the index of no row")
            content = self._rows[self._places[content]].get("image", "")
        try:
            return base64.b64decode(content, validate=True)
        except binascii.Error as error:
            raise DataError(f"{where} has a picture that is not base64: {error}") from error


def _told(text: str | None) -> bool:
    """Whether a cell holds anything: pandas writes nan for what is missing."""
    return bool(text and text.strip()) and text != "nan"
