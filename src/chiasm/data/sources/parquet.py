"""Parquet files of pictures with captions, as the Hugging Face Hub stores them: pictures as {bytes, path} columns."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from chiasm.config import suggest
from chiasm.data.files import inside
from chiasm.data.image import Image
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.errors import DataError, MissingExtra


@dataclass(frozen=True)
class _Group:
    """A row group: the file, its number and its first row in it, and how many rows it has."""

    path: Path
    number: int
    first: int
    rows: int


@dataclass(frozen=True)
class Parquet(Source):
    """One sample a row, in the order of the files; the key is "file/row".

    path: a .parquet file, a folder of them, or a pattern such as data/train-*.parquet; files come sorted by name.
    image: the column of the pictures: {bytes, path}, bytes, or names of files below the folder of the parquet file.
    caption: the column of captions, one text or a list of texts a row; null reads no captions.
    groups: row groups that are kept in memory. A row is read with its whole group, so that reading in order is fast
        and shuffled reading is fast where the groups of the data, often 100 to 1,000 rows each, fit in here.
    Empty captions are dropped; `meta` is what else a row holds, other pictures and bytes left out. Needs pyarrow.
    Raises DataError for files that are absent or broken, and for a row that cannot be read when it is read.
    """

    path: Path
    image: str = "image"
    caption: str | None = "caption"
    groups: int = 4

    def __post_init__(self) -> None:
        if not self._files:
            raise DataError(f"there is no .parquet file at {self.path}")
        if self.groups < 1:
            raise DataError(f"parquet.groups: at least one row group is kept in memory, not {self.groups}")
        _pyarrow()

    @cached_property
    def _files(self) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        folder, pattern = (self.path, "*.parquet") if self.path.is_dir() else (self.path.parent, self.path.name)
        return sorted(path for path in folder.glob(pattern) if path.is_file())

    @cached_property
    def _groups(self) -> list[_Group]:
        parquet, found = _pyarrow(), []
        for path in self._files:
            with _named(path), parquet.ParquetFile(path) as file:
                names = file.schema_arrow.names
                counts = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            for column in (self.image, self.caption):
                if column is not None and column not in names:
                    raise DataError(f"{path} has no column '{column}'{suggest(column, names)}")
            starts = accumulate(counts, initial=0)
            found += [_Group(path, number, next(starts), count) for number, count in enumerate(counts)]
        return found

    @cached_property
    def _ends(self) -> list[int]:
        """How many rows there are up to the end of each group."""
        return list(accumulate(group.rows for group in self._groups))

    @cached_property
    def _table(self) -> Callable[[_Group], Any]:
        """The rows of a group; those of the last few are kept."""
        return lru_cache(maxsize=self.groups)(_read)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        place = bisect_right(self._ends, index)
        group = self._groups[place]
        within = index - (self._ends[place] - group.rows)
        number = group.first + within
        where = f"{group.path}, row {number}"
        try:
            row = self._table(group).slice(within, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            raise DataError(f"{where} holds a text that is not UTF-8") from error
        image = _image(row[self.image], group.path.parent, where)
        captions = () if self.caption is None else _captions(row[self.caption], self.caption, where)
        meta = {
            key: value
            for key, value in row.items()
            if key not in (self.image, self.caption)
            and not isinstance(value, bytes)
            and not (isinstance(value, dict) and isinstance(value.get("bytes"), bytes))
        }
        return Sample(key=f"{group.path.stem}/{number}", parts=(image,), captions=captions, meta=meta)


def _image(value: object, folder: Path, where: str) -> Image:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return Image(value)
    if isinstance(value, str):
        return Image(inside(folder, value))
    raise DataError(f"{where} has no picture")


def _captions(value: object, column: str, where: str) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where} has no captions: '{column}' must hold a text or a list of texts")
    captions = tuple(text.strip() for text in texts if text.strip())
    if not captions:
        raise DataError(f"{where} has no caption that is not empty")
    return captions


def _read(group: _Group) -> Any:
    with _named(group.path), _pyarrow().ParquetFile(group.path) as file:
        return file.read_row_group(group.number)


@contextmanager
def _named(path: Path) -> Iterator[None]:
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
