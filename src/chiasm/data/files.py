"""Files that somebody else wrote: names that stay in their folder, UTF-8 or a clear error, rows found by offset."""

from __future__ import annotations

import csv
import json
import re
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from chiasm.data.file_cache import local
from chiasm.data.image import Image
from chiasm.data.locations import Location, Url, image_at
from chiasm.data.video import Video
from chiasm.errors import DataError

_BOM = b"\xef\xbb\xbf"  # what some editors and spreadsheets put before UTF-8
_BLANKS = re.compile(r"[ \t\r\n]*")


@overload
def inside(folder: Path, name: str) -> Path: ...
@overload
def inside(folder: Url, name: str) -> Url: ...
def inside(folder: Location, name: str) -> Location:
    """`folder / name`, refused with DataError if that leads out of the folder (`..`, absolute names, URLs, links)."""
    if not name.strip():
        raise DataError(f"an empty name stands where a file in {folder} should be named")
    if isinstance(folder, Url):
        return folder.inside(name)
    path = folder / name
    try:
        within = path.resolve().is_relative_to(folder.resolve())
    except (ValueError, OSError, RuntimeError) as error:  # a zero byte; links that go in circles
        raise DataError(f"{name!r} names no file in {folder}: {error}") from error
    if not within:
        raise DataError(f"'{name}' leads out of the folder {folder}; data may only name files inside of it")
    return path


def picture(folder: Location, name: str) -> Image:
    """The picture of this name in a folder, read when it is needed. Raises DataError like `inside`."""
    return image_at(inside(folder, name))


def video(folder: Location, name: str) -> Video:
    """The video of this name in a folder, read when it is needed. Raises DataError like `inside`."""
    return Video(inside(folder, name))


def check_shape(image: Image, stated: tuple[float, float], where: str) -> None:
    """Raises DataError where a picture, as it is seen, has not the shape that (width, height) state.

    Boxes in pixels of the stated size would then lie elsewhere. A picture that was scaled as a whole has the shape.
    """
    width, height = image.size
    if abs(width * stated[1] - height * stated[0]) > max(*stated, width, height):  # a side may be rounded by a pixel
        turned = abs(height * stated[1] - width * stated[0]) <= max(*stated, width, height)
        why = (
            "its EXIF entry turns it, which the boxes do not know: turn it for good, or leave it out"
            if turned
            else ("take the pictures that the boxes were drawn on")
        )
        raise DataError(
            f"{where} is stated to have {stated[0]}x{stated[1]} pixels, but is seen with {width}x{height}; {why}"
        )


def to_text(content: bytes, where: str) -> str:
    """Bytes as text. Raises DataError, naming the byte, where they are not UTF-8."""
    try:
        return content.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 at byte {error.start}; convert it with iconv") from error


def to_json(text: str, where: str) -> Any:
    """The value that a JSON text holds. Raises DataError for what is not JSON or holds half a character."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON: {error.msg} at character {error.pos}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets of thousands of levels
        raise DataError(f"{where} is JSON that cannot be read: {error}") from error
    if "\\ud" in text.lower():  # an escaped surrogate: sound in a pair, but half of one is no text
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{where} holds half of a surrogate pair, which is no text") from error
    return value


def read_json(location: Location) -> Any:
    """The value that a JSON file holds. Raises DataError, naming the file."""
    return to_json(to_text(_read(location), str(location)), str(location))


class Rows:
    """The rows of one file. Only their offsets are held, 24 bytes a row, so that files of millions of rows are cheap.

    A row is read when it is asked for; a broken one raises DataError then, naming file and line, and no sooner.
    location: of the file; of one in a store the copy on this machine is read, and errors name the URL.
    spans: (rows, 3): first byte, end byte, and the number by which errors call the row.
    parse: the row from its text and its position in words. unit: what the numbers count, "line" or "row".
    """

    def __init__(
        self, location: Location, spans: array[int], parse: Callable[[str, str], dict[str, Any]], unit: str
    ) -> None:
        self.location, self.path, self.unit = location, local(location), unit
        self._spans: NDArray[np.int64] = np.frombuffer(spans.tobytes(), np.int64).reshape(-1, 3)
        self._parse = parse

    def __len__(self) -> int:
        return len(self._spans)

    def number(self, index: int) -> int:
        """The number of a row's (first) line in the file, from 1, or its index in the list, from 0."""
        return int(self._spans[index, 2])

    def where(self, index: int) -> str:
        """The name of a row in errors: the file and the position in it."""
        return f"{self.location}, {self.unit} {self.number(index)}"

    def __getitem__(self, index: int) -> dict[str, Any]:
        start, end, _ = (int(bound) for bound in self._spans[index])
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                content = file.read(end - start)
        except OSError as error:
            raise DataError(f"cannot read {self.where(index)}: {error.strerror}") from error
        return self._parse(to_text(content, self.where(index)), self.where(index))

    def each(self) -> Iterator[dict[str, Any] | None]:
        """All rows in order, in one pass over the file; None for one that `[]` raises DataError for."""
        with self.path.open("rb") as file:
            for index, (start, end, _) in enumerate(self._spans.tolist()):
                file.seek(start)
                try:
                    yield self._parse(to_text(file.read(end - start), self.where(index)), self.where(index))
                except DataError:  # kept for the reading of this row, where it is raised again
                    yield None


def json_lines(location: Location) -> Rows:
    """The objects of a JSON-lines file; blank lines are passed over."""
    spans = array("q")
    start = 0
    with local(location).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                spans.extend((start, start + len(line), number))
            start += len(line)
    return Rows(location, spans, _object, "line")


def json_list(location: Location) -> Rows:
    """The objects of a JSON file that holds one list. Raises DataError where the list is broken."""
    content = _read(location)
    text = to_text(content, str(location))
    spans = array("q")
    byte, done = len(_BOM) if content.startswith(_BOM) else 0, 0  # bytes before the character at `done`
    for start, end in _items(text, location):
        first = byte + start - done  # between items stand only blanks and commas, a byte each
        byte, done = first + len(text[start:end].encode()), end
        spans.extend((first, byte, len(spans) // 3))
    return Rows(location, spans, _object, "row")


def _items(text: str, location: Location) -> Iterator[tuple[int, int]]:
    """Where the items of a JSON list start and end, in characters."""
    decoder = json.JSONDecoder()
    at = _after_blanks(text, 0)
    if text[at : at + 1] != "[":
        raise DataError(f"{location} must hold a JSON list; a file with one object a line is called .jsonl")
    at = _after_blanks(text, at + 1)
    more = text[at : at + 1] != "]"
    while more:
        try:
            _, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{location}, line {error.lineno}, is not JSON: {error.msg}; is the file cut short?"
            ) from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{location} is JSON that cannot be read from character {at}: {error}") from error
        yield at, end
        at = _after_blanks(text, end)
        more = text[at : at + 1] == ","
        if more:
            at = _after_blanks(text, at + 1)
    if text[at:].strip() != "]":
        raise DataError(f"{location} is not JSON: the list does not end where it should, at character {at}")


def separated(location: Location, delimiter: str) -> Rows:
    """The rows of a CSV or TSV file as dictionaries; its first row names the columns. Quotes as in RFC 4180."""
    path = local(location)
    spans = _records(path, delimiter)
    if not spans:
        raise DataError(f"{location} is empty; its first row must name the columns")
    with path.open("rb") as file:
        first = to_text(file.read(spans[1]), f"{location}, line 1")
    header = [column.strip() for column in _fields(first, delimiter, f"{location}, line 1")]
    if len(set(header)) < len(header):
        raise DataError(f"{location}, line 1: two columns have one name among {', '.join(header)}")
    return Rows(location, spans[3:], partial(_record, header=header, delimiter=delimiter), "line")


def _records(path: Path, delimiter: str) -> array[int]:
    """The spans of all rows that are not blank. A quoted field may hold line ends, so the parser finds the rows."""
    spans = array("q")
    first, end, line = 0, 0, 0  # where the row that is being read starts and ends, and the lines so far

    def lines() -> Iterator[str]:
        nonlocal end, line
        with path.open("rb") as file:
            for content in file:
                end, line = end + len(content), line + 1
                # Quotes, delimiters and line ends are single bytes in UTF-8: Latin-1 shows them whatever else there is.
                yield (content.removeprefix(_BOM) if line == 1 else content).decode("latin-1")

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    while True:
        number = line + 1
        try:
            row = next(reader)
        except StopIteration:
            return spans
        except csv.Error as error:
            if line > number:  # it closes nowhere, or where another one opens
                raise DataError(
                    f"{path}, line {number}: a quote that begins there swallows the {line - number} lines behind it "
                    f'({error}); write "" for a quote within a quoted field, and quote a field that begins with one'
                ) from error
            row = [""]  # a broken row; reported when it is read
        if row:
            spans.extend((first, end, number))
        first = end


def _read(location: Location) -> bytes:
    try:
        return local(location).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {location}: {error.strerror}") from error


def _after_blanks(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    assert found is not None  # the pattern matches nothing, too
    return found.end()


def _object(text: str, where: str) -> dict[str, Any]:
    value = to_json(text, where)
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a JSON object, not {type(value).__name__}")
    return value


def _fields(text: str, delimiter: str, where: str) -> list[str]:
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise DataError(f"{where} cannot be read: {error}; fields with quotes in them must be quoted") from error


def _record(text: str, where: str, header: list[str], delimiter: str) -> dict[str, Any]:
    fields = _fields(text, delimiter, where)
    if len(fields) != len(header):
        raise DataError(f"{where} has {len(fields)} fields, but line 1 names {len(header)} columns")
    return dict(zip(header, fields, strict=True))
