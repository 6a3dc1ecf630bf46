"""Rows of numbers on disk that only grow: .npy files which numpy maps at any moment, and which no kill leaves torn."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chiasm.errors import CheckpointError

_HEADER = 128  # bytes; numpy pads it so that every count of rows fits, and it is rewritten in place


class GrowingArray:
    """(N, *shape) in a .npy file; `numpy.load(file, mmap_mode="r")` reads it whenever it likes.

    Rows are on the disk before the header counts them: a reader never meets a row that is not whole, and what a kill
    leaves after the counted rows is overwritten. `count` is N. dtype: of the numbers, as numpy calls it.
    Raises CheckpointError where the file holds something else.
    """

    def __init__(self, file: Path, shape: Sequence[int], dtype: str = "float32") -> None:
        self.file, self.shape, self.dtype = file, tuple(shape), np.dtype(dtype)
        self.row_bytes = math.prod(self.shape) * self.dtype.itemsize
        if not file.exists() or file.stat().st_size < _HEADER:  # a kill may have come before the header
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            self._count_rows(0)
        self.count = self._counted()

    def append(self, rows: NDArray[Any]) -> None:
        """Adds rows, (n, *shape). Raises CheckpointError if the disk does not take them; the file stays as it was."""
        if rows.shape[1:] != self.shape:
            raise ValueError(f"{self.file} holds rows of {self.shape}, not of {rows.shape[1:]}")
        try:
            with self.file.open("r+b") as file:
                file.seek(self._end(self.count))
                file.write(np.ascontiguousarray(rows, self.dtype).tobytes())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:  # a full disk
            raise CheckpointError(f"cannot write {self.file}: {error.strerror}") from error
        self._count_rows(self.count + len(rows))

    def truncate(self, count: int) -> None:
        """Drops all but the first `count` rows."""
        if count > self.count:
            raise CheckpointError(f"{self.file} is damaged: it holds {self.count} rows where {count} were written")
        self._count_rows(count)
        os.truncate(self.file, self._end(count))

    def rows(self, own: bool = False) -> NDArray[np.number]:
        """All rows, (N, *shape), mapped, not read. own: a private copy on write, which never reaches the file."""
        if not self.count:
            return np.empty((0, *self.shape), self.dtype)  # an empty file cannot be mapped
        return np.memmap(self.file, self.dtype, "c" if own else "r", _HEADER, (self.count, *self.shape))

    def _end(self, count: int) -> int:
        return _HEADER + count * self.row_bytes

    def _count_rows(self, count: int) -> None:
        header = {"shape": (count, *self.shape), "fortran_order": False, "descr": self.dtype.str}
        with self.file.open("r+b") as file:
            np.lib.format.write_array_header_1_0(file, header)
            assert file.tell() == _HEADER
        self.count = count

    def _counted(self) -> int:
        try:
            with self.file.open("rb") as file:
                np.lib.format.read_magic(file)
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        except ValueError as error:
            raise CheckpointError(f"{self.file} is damaged ({error}); remove it, and it will be made anew") from error
        if shape[1:] != self.shape or dtype != self.dtype:
            raise CheckpointError(
                f"{self.file} holds {dtype} rows of {shape[1:]}, not {self.dtype} of {self.shape}; "
                "remove it, and it will be made anew"
            )
        if self.file.stat().st_size < self._end(shape[0]):
            raise CheckpointError(f"{self.file} is damaged: it was cut short; remove it, and it will be made anew")
        return int(shape[0])


class KeyFile:
    """The keys of rows in another file, a line each, in their order. places: the row of each key.

    Rows are written before their keys, so that a kill at any moment leaves nothing half there: rows without a key are
    cut off, and so is a line without an end. Raises CheckpointError where a key has no row, or two.
    """

    def __init__(self, file: Path, rows: GrowingArray) -> None:
        self.file = file
        file.touch()
        content = file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(file, len(whole))
        keys = whole.decode().splitlines()
        self.places = {key: row for row, key in enumerate(keys)}
        if rows.count < len(keys) or len(self.places) != len(keys):
            raise CheckpointError(f"the cache {file.parent} is damaged; remove it, and it will be made anew")
        rows.truncate(len(keys))

    def append(self, keys: Iterable[str]) -> None:
        """Adds keys that are new, whose rows are written."""
        keys = list(keys)
        try:
            with self.file.open("a", encoding="utf-8") as file:
                file.writelines(f"{key}\n" for key in keys)
        except OSError as error:
            raise CheckpointError(f"cannot write {self.file}: {error.strerror}") from error
        for key in keys:
            self.places[key] = len(self.places)


class VectorFile:
    """Vectors by key: `file` holds the rows (float32), `file`.keys a key a line. Reading maps the file into memory.

    shape: of a row; (D,) is a vector, (P, D) several.
    """

    def __init__(self, file: Path, *shape: int) -> None:
        self.rows = GrowingArray(file, shape)
        self.keys = KeyFile(file.with_suffix(".keys"), self.rows)

    def __contains__(self, key: str) -> bool:
        return key in self.keys.places

    def __getitem__(self, keys: Sequence[str]) -> Tensor:
        """(N, *shape), copied from the file."""
        return torch.from_numpy(self.rows.rows()[[self.keys.places[key] for key in keys]])

    def append(self, keys: Sequence[str], rows_ND: Tensor) -> None:
        """Adds rows under keys that are new."""
        self.rows.append(rows_ND.float().cpu().numpy())
        self.keys.append(keys)
