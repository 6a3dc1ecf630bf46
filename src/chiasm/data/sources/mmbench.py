"""MMBench's tables: multiple-choice questions with their pictures in base64, a row each (Liu et al. 2023).

arXiv:2307.06281. Tab-separated: index, question, A to D, image, and where known answer and category."""

from __future__ import annotations

import base64
import binascii
import re
from array import array
from dataclasses import dataclass
from functools import cached_property, partial

from chiasm.data.file_cache import local
from chiasm.data.files import Rows, to_text
from chiasm.data.image import Image
from chiasm.data.locations import Location
from chiasm.data.sample import Question, Sample
from chiasm.data.source import Source
from chiasm.errors import DataError

_LETTERS = "ABCDEFGH"
_FIELD = re.compile(r'(?:"((?:[^"]|"")*)"|([^\t]*))(?:\t|$)')  # quoted, or as it stands
_SHORT = 64  # characters; what is shorter is no picture but the index of the row that holds it
_CIRCULAR = 1_000_000  # rows of the published circular files repeat a question under its index plus multiples of this


@dataclass(frozen=True)
class MMBench(Source):
    """One sample a question, for the task `multiple_choice`; its kind is the row's category.

    path: such as MMBench_DEV_EN.tsv. A hint stands before the question. Rows that repeat a question in another rotation
    are left out: the task rotates the options itself (`order: circular`). A row without an answer, as in the test
    split, raises DataError when it is read.
    """

    path: Location

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise DataError(f"there is no table {self.path}; give one of MMBench's .tsv files")

    @cached_property
    def _rows(self) -> Rows:
        return _table(self.path)

    @cached_property
    def _row_numbers(self) -> dict[str, int]:
        """The number of each question's row, by its index in the table."""
        found = {str(row["index"]): at for at, row in enumerate(self._rows.each()) if row and "index" in row}
        if not found:
            raise DataError(f"{self.path} is no table of MMBench: it has no column 'index'")
        return {index: at for index, at in found.items() if not index.isdecimal() or int(index) < _CIRCULAR}

    @cached_property
    def _numbers(self) -> list[str]:
        return list(self._row_numbers)

    def __len__(self) -> int:
        return len(self._row_numbers)

    def __getitem__(self, index: int) -> Sample:
        number = self._numbers[index]
        at = self._row_numbers[number]
        row, where = self._rows[at], self._rows.where(at)
        choices = {letter: row[letter].strip() for letter in _LETTERS if _is_filled(row.get(letter))}
        question, answer = row.get("question", "").strip(), row.get("answer", "").strip()
        if not question or answer not in choices:
            raise DataError(f"{where} needs a question and an answer that is one of {', '.join(choices) or 'A to D'}")
        hint = row.get("hint", "").strip()
        asked = f"{hint}\n{question}" if _is_filled(hint) else question
        if len(set(choices.values())) < len(choices):
            raise DataError(f"{where} has two options of the same text")
        return Sample(
            key=f"mmbench/{number}",
            parts=(Image(self._image(row.get("image", ""), where)),),
            questions=(Question(asked, choices[answer], row.get("category", ""), tuple(choices.values())),),
            meta={name: row[name] for name in ("category", "l2-category", "split", "source") if name in row},
        )

    def _image(self, content: str, where: str) -> bytes:
        if len(content) < _SHORT:
            if content not in self._row_numbers:
                raise DataError(f"{where} has '{content}' for its picture, which is the index of no row")
            content = self._rows[self._row_numbers[content]].get("image", "")
        try:
            return base64.b64decode(content, validate=True)
        except binascii.Error as error:
            raise DataError(f"{where} has a picture that is not base64: {error}") from error


def _table(location: Location) -> Rows:
    """The rows of the table. The csv module refuses fields as long as a picture, unless told otherwise for all."""
    spans, header = array("q"), [""]
    first, end, begun, quotes = 0, 0, 0, 0  # where the row that is being read starts and ends, its line, its quotes
    with local(location).open("rb") as file:
        for number, content in enumerate(file, start=1):
            if quotes % 2 == 0:  # else the line before ends within a quoted field
                first, begun = end, number
            end, quotes = end + len(content), quotes + content.count(b'"')
            if quotes % 2 == 0 and number > 1 and content.strip():
                spans.extend((first, end, begun))
            if number == 1:
                header = _fields(to_text(content, f"{location}, line 1"))
    if quotes % 2:
        raise DataError(f"{location}, line {begun}: a quote is opened there and never closed")
    return Rows(location, spans, partial(_record, header=header), "line")


def _record(row: str, where: str, header: list[str]) -> dict[str, str]:
    fields = _fields(row)
    if len(fields) != len(header):
        raise DataError(f"{where} has {len(fields)} fields, but line 1 names {len(header)} columns")
    return dict(zip(header, fields, strict=True))


def _fields(row: str) -> list[str]:
    row, fields, at = row.rstrip("\r\n"), [], 0
    while True:
        found = _FIELD.match(row, at)
        assert found is not None  # the pattern matches anything
        quoted, plain = found.groups()
        fields.append(plain if quoted is None else quoted.replace('""', '"'))
        if not found.group().endswith("\t"):
            return fields
        at = found.end()


def _is_filled(text: str | None) -> bool:
    """Whether a cell holds anything: pandas writes nan for what is missing."""
    return bool(text and text.strip()) and text != "nan"
