"""What the tests of sources are made of: pictures, broken pictures, files of rows, and names that lead out."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from chiasm.data.source import Source
from chiasm.errors import DataError

OUTSIDE = ("../secret.jpg", "/etc/hostname", "a/../../secret.jpg", "link.jpg", "loop.jpg", "zero\0byte.jpg", "  ")


def jpeg(level: int = 0, size: tuple[int, int] = (24, 16)) -> bytes:
    """A picture that no other level gives."""
    noise = np.random.default_rng(level).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


def folder_of_images(folder: Path, count: int = 3) -> Path:
    """0.jpg, 1.jpg, ..., with cut.jpg (a truncated JPEG), text.jpg (no picture), and links that lead nowhere good."""
    folder.mkdir(parents=True, exist_ok=True)
    for level in range(count):
        (folder / f"{level}.jpg").write_bytes(jpeg(level))
    (folder / "cut.jpg").write_bytes(jpeg(99, (64, 64))[:900])
    (folder / "text.jpg").write_text("no picture")
    (folder.parent / "secret.jpg").write_bytes(jpeg(100))
    (folder / "link.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    return folder


def json_lines(path: Path, rows: Iterable[object]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def fails(source: Source, index: int, words: str) -> None:
    """Reading this sample, its pictures too, raises a DataError that says `words` in one line."""
    with pytest.raises(DataError, match=words) as caught:
        _ = [image.decode() for image in source[index].images]
    assert "\n" not in str(caught.value)
