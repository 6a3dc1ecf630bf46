from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chiasm.data.vectors import GrowingArray
from chiasm.errors import CheckpointError


@pytest.mark.parametrize(("shape", "dtype"), [((5,), "float32"), ((2, 3), "float16")])
def test_numpy_reads_the_file_whenever_it_grows(shape: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    array = GrowingArray(tmp_path / "rows.npy", shape, dtype)
    assert np.load(array.file).shape == (0, *shape)
    drawn = np.random.default_rng(0).normal(size=(700, *shape)).astype(dtype)
    for start in range(0, 700, 70):  # the header must stay as long as it was while the count gains digits
        array.append(drawn[start : start + 70])
        found = np.load(array.file, mmap_mode="r")
        assert found.dtype == dtype
        assert np.array_equal(found, drawn[: start + 70])
    assert np.array_equal(GrowingArray(array.file, shape, dtype).rows(), drawn)


def test_what_a_kill_left_behind_the_counted_rows_is_overwritten(tmp_path: Path) -> None:
    array = GrowingArray(tmp_path / "rows.npy", (3,))
    array.append(np.ones((4, 3), np.float32))
    with array.file.open("ab") as file:
        file.write(b"half a row")
    again = GrowingArray(array.file, (3,))
    assert again.count == 4
    again.append(np.full((1, 3), 2, np.float32))
    assert np.load(array.file)[:, 0].tolist() == [1, 1, 1, 1, 2]
    again.truncate(2)
    assert np.load(array.file).shape == (2, 3)
    assert array.file.stat().st_size == 128 + 2 * 3 * 4


def test_another_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "rows.npy"
    GrowingArray(file, (3,)).append(np.ones((4, 3), np.float32))
    with pytest.raises(CheckpointError, match=r"holds float32 rows of \(3,\), not float32 of \(4,\)"):
        GrowingArray(file, (4,))
    with pytest.raises(CheckpointError, match="holds 4 rows where 9 were written"):
        GrowingArray(file, (3,)).truncate(9)
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match="was cut short"):
        GrowingArray(file, (3,))
    file.write_bytes(b"x" * 500)
    with pytest.raises(CheckpointError, match="is damaged"):
        GrowingArray(file, (3,))
