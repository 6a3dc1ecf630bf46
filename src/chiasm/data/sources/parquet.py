"""Parquet files of pictures with captions, as the Hugging Face Hub stores them: pictures as {bytes, path} columns."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from chiasm.config import suggest
from chiasm.data.files import picture
from chiasm.data.image import Image
from chiasm.data.locations import Location, Url, short_names
from chiasm.data.order import Blocks
from chiasm.data.recent import Recent
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.errors import DataError, MissingExtra

_AT_ONCE = 16  # files of a store whose footers are read at a time
_PATTERN = frozenset("*?[")


@dataclass(frozen=True)
class _Group:
    """A row group: its file's number, its own, its first row in the file, and how many rows it has."""

    file: int
    number: int
    first: int
    rows: int


@dataclass(frozen=True)
class Parquet(Source):
    """One sample a row, in the order of the files; the key is "file/row".

    path: a .parquet file, a folder of them, or a pattern such as data/train-*.parquet or
        hf://datasets/OWNER/NAME/**/train-*.parquet; files come sorted by name.
    image: the column of the pictures: {bytes, path}, bytes, names of files below the folder of the parquet file, or
        lists of these.
    caption: the column of captions, one text or a list of texts a row; null reads no captions.
    label: the column of classes, where the files have one of that name.
    groups: row groups whose rows are shuffled together (see data.order.BlockShuffle). A row is read with its whole
        group, so these stay in memory, and up to as many again where a reader passes on to the next.
    Of a file in a store the footer and the row groups are read by range when they are needed, and nothing is stored: a
    Hub data set is streamed so. Empty captions are dropped; `meta` is what else a row holds, other pictures and bytes
    left out. Where the `datasets` library declares a column a ClassLabel, its names are given instead of the numbers.
    Needs pyarrow, and huggingface_hub for hf://.
    Raises DataError for files that are absent or broken, and for a row that cannot be read when it is read.
    """

    path: Location
    image: str = "image"
    caption: str | None = "caption"
    label: str = "label"
    groups: int = 4

    def __post_init__(self) -> None:
        if not self._files:
            raise DataError(f"there is no .parquet file at {self.path}")
        if self.groups < 1:
            raise DataError(f"parquet.groups: at least one row group is kept in memory, not {self.groups}")
        _pyarrow()

    @cached_property
    def _files(self) -> list[Location]:
        if isinstance(self.path, Url):
            if self.path.is_pattern:
                return list(self.path.glob())
            return [self.path] if self.path.suffix == ".parquet" else list(self.path.glob("*.parquet"))
        if self.path.is_file():
            return [self.path]
        folder, pattern = (self.path, "*.parquet") if self.path.is_dir() else _split(self.path)
        return [path for path in sorted(folder.glob(pattern)) if path.is_file()]

    @cached_property
    def _names(self) -> list[str]:
        return short_names(self._files)

    @cached_property
    def _footers(self) -> list[tuple[list[int], dict[str, list[str]]]]:
        """For each file the rows of each group, and the names of its classes by column."""
        with ThreadPoolExecutor(_AT_ONCE if isinstance(self.path, Url) else 1) as pool:
            return list(pool.map(self._footer, self._files))

    def _footer(self, path: Location) -> tuple[list[int], dict[str, list[str]]]:
        with _parquet(path) as file:
            schema = file.schema_arrow
            counts = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        for column in (self.image, self.caption):
            if column is not None and column not in schema.names:
                raise DataError(f"{path} has no column '{column}'{suggest(column, schema.names)}")
        return counts, _classes((schema.metadata or {}).get(b"huggingface", b"{}"))

    @cached_property
    def _groups(self) -> list[_Group]:
        found = []
        for file, (counts, _) in enumerate(self._footers):
            starts = accumulate(counts, initial=0)
            found += [_Group(file, number, next(starts), count) for number, count in enumerate(counts)]
        return found

    @cached_property
    def _ends(self) -> list[int]:
        """How many rows there are up to the end of each group."""
        return list(accumulate(group.rows for group in self._groups))

    @cached_property
    def _table(self) -> Recent[_Group, Any]:
        """The rows of a group; those of the last few are kept, of two windows of the order."""
        return Recent(2 * self.groups, self._read)

    def _cells(self, row: Any, where: str) -> dict[str, Any]:
        """The cells of a one-row table by column; one that nobody asked for and Python cannot hold is left out."""
        cells = {}
        for name in row.column_names:
            try:
                cells[name] = row.column(name)[0].as_py()
            except (ValueError, OverflowError, TypeError, LookupError) as error:  # a date beyond 9999, no UTF-8, ...
                if name in (self.image, self.caption, self.label):
                    why = "a text that is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
                    raise DataError(f"{where}: the column '{name}' cannot be read: {why}") from error
        return cells

    def _read(self, group: _Group) -> Any:
        with _parquet(self._files[group.file]) as file:
            return file.read_row_group(group.number)

    @property
    def in_shards(self) -> bool:
        return True

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def blocks(self) -> Blocks:
        return Blocks(tuple(group.rows for group in self._groups), self.groups)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        at = bisect_right(self._ends, index)
        group = self._groups[at]
        within = index - (self._ends[at] - group.rows)
        file, number = self._files[group.file], group.first + within
        where = f"{file}, row {number}"
        row = self._cells(self._table(group).slice(within, 1), where)
        found = row[self.image]
        images = tuple(_image(value, file.parent, where) for value in (found if isinstance(found, list) else [found]))
        if not images:
            raise DataError(f"{where} has no picture")
        captions = () if self.caption is None else _captions(row[self.caption], self.caption, where)
        classes = self._footers[group.file][1]
        meta = {
            key: _named_class(value, classes.get(key, []))
            for key, value in row.items()
            if key not in (self.image, self.caption, self.label)
            and not isinstance(value, bytes)
            and not (isinstance(value, dict) and isinstance(value.get("bytes"), bytes))
        }
        label = row.get(self.label)
        return Sample(
            key=f"{self._names[group.file]}/{number}",
            parts=images,
            captions=captions,
            label=None if label is None else str(_named_class(label, classes.get(self.label, []))),
            meta=meta,
        )


def _split(path: Path) -> tuple[Path, str]:
    """The folder that a pattern begins with, and the rest of it."""
    at = next((i for i, part in enumerate(path.parts) if _PATTERN & set(part)), len(path.parts) - 1)
    return Path(*path.parts[:at]), str(Path(*path.parts[at:]))


def _classes(metadata: bytes) -> dict[str, list[str]]:
    """The names of the classes of each ClassLabel column, from what the `datasets` library writes into the footer."""
    try:
        features = json.loads(metadata)["info"]["features"]
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError):  # another writer's; the columns tell what they hold
        return {}


def _named_class(value: object, names: list[str]) -> object:
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


def _image(value: object, folder: Location, where: str) -> Image:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return Image(value)
    if isinstance(value, str):
        return picture(folder, value)
    raise DataError(f"{where} has no picture")


def _captions(value: object, column: str, where: str) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where} has no captions: '{column}' must hold a text or a list of texts")
    captions = tuple(text.strip() for text in texts if text.strip())
    if not captions:
        raise DataError(f"{where} has no caption that is not empty")
    return captions


@contextmanager
def _parquet(path: Location) -> Iterator[Any]:
    """A parquet file, opened; what pyarrow fails on is named. Only the ranges that are needed are read of a URL."""
    parquet = _pyarrow()
    if isinstance(path, Url):
        with path.open() as content, _named(path), parquet.ParquetFile(content) as file:
            yield file
    else:
        with _named(path), parquet.ParquetFile(path) as file:
            yield file


@contextmanager
def _named(path: Location) -> Iterator[None]:
    """Names the file that pyarrow fails on."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} is not a parquet file that can be read: {error}") from error


def _pyarrow() -> Any:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise MissingExtra("pyarrow", "data", "reading parquet files") from error
    return parquet
