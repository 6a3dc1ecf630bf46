"""Rows of numbers on disk that only grow: .npy files which numpy maps at any moment, and which no kill leaves torn."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chiasm.errors import CheckpointError

_HEADER = 128  # bytes; numpy pads it so that every count of rows fits, and it is rewritten in place


class GrowingArray:
    """(N, *shape) in a .npy file; `numpy.load(file, mmap_mode="r")` reads it whenever it likes.

    Rows are on the disk before the header counts them: a reader never meets a row that is not whole, and what a kill
    leaves behind the counted rows is overwritten. `count` is N. dtype: "float32" or "float16".
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

    def append(self, rows: NDArray[np.floating]) -> None:
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
        """Leaves the first `count` rows."""
        if count > self.count:
            raise CheckpointError(f"{self.file} is damaged: it holds {self.count} rows where {count} were written")
        self._count_rows(count)
        os.truncate(self.file, self._end(count))

    def rows(self) -> NDArray[np.floating]:
        """(N, *shape), mapped, not read."""
        if not self.count:
            return np.empty((0, *self.shape), self.dtype)  # an empty file cannot be mapped
        return np.memmap(self.file, self.dtype, "r", _HEADER, (self.count, *self.shape))

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


class VectorFile:
    """Vectors by key: `file` holds the rows (float32), `file`.keys a key a line.

    Rows are written before their keys, so that a kill at any moment leaves nothing half there: what has no key is
    overwritten. Reading maps the file into memory.
    """

    def __init__(self, file: Path, width: int) -> None:
        self.rows, self.keys_file = GrowingArray(file, (width,)), file.with_suffix(".keys")
        self.keys_file.touch()
        lines = self.keys_file.read_text().splitlines(keepends=True)
        whole = [line.strip() for line in lines if line.endswith("\n")]
        self.places = {key: place for place, key in enumerate(whole)}
        if self.rows.count < len(whole) or len(self.places) != len(whole):
            raise CheckpointError(f"the feature cache {file.parent} is damaged; remove it, and it will be made anew")
        self.rows.truncate(len(whole))
        self.keys_file.write_text("".join(f"{key}\n" for key in whole))

    def __contains__(self, key: str) -> bool:
        return key in self.places

    def __getitem__(self, keys: Sequence[str]) -> Tensor:
        """(N, D), copied from the file."""
        return torch.from_numpy(self.rows.rows()[[self.places[key] for key in keys]])

    def append(self, keys: Sequence[str], rows_ND: Tensor) -> None:
        """Adds rows under keys that are new."""
        self.rows.append(rows_ND.float().cpu().numpy())
        with self.keys_file.open("a") as file:
            file.writelines(f"{key}\n" for key in keys)
        for key in keys:
            self.places[key] = len(self.places)
