"""What strangers hand over, all at once: each in one sentence, counted, and the rest goes on."""

from __future__ import annotations

import struct
import zlib
from itertools import islice
from pathlib import Path

import PIL.Image
import pytest

from chiasm.data.reader import Reader
from chiasm.data.source import Source
from chiasm.data.sources.captions import Captions
from chiasm.data.sources.folder import Folder
from chiasm.data.sources.webdataset import WebDataset
from tests.data.sources.made import OUTSIDE, fails, folder_of_images, jpeg, json_lines
from tests.data.sources.test_webdataset import pairs, shard
from tests.worlds import tiny_processor


def claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


def skipped(source: Source, epochs: int = 1) -> dict[str, str]:
    """The reasons for which a reader leaves samples out of an epoch; the others come, and the reader does not stop."""
    reader = Reader(source, tiny_processor(), batch_size=len(source), max_skipped=1.0)
    sound = sum(len(batch) for batch in islice(reader, epochs))
    assert sound == epochs * len(source) - len(reader.skips.samples)
    assert sound > 0
    reasons = reader.skips.reasons()
    assert not any("\n" in reason or "Traceback" in reason for reason in reasons)
    return dict.fromkeys(reasons, "")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_rows_and_pictures_of_all_bad_kinds(tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "data")
    (folder / "huge.png").write_bytes(claims(50_000, 50_000))
    (folder / "empty.jpg").write_bytes(b"")
    names = ["cut.jpg", "text.jpg", "huge.png", "empty.jpg", "absent.jpg", *OUTSIDE]
    rows: list[object] = [{"image": f"{i}.jpg", "caption": f"number {i}"} for i in range(3)]
    path = json_lines(folder / "rows.jsonl", rows + [{"image": name, "caption": "a"} for name in names])
    with path.open("ab") as file:
        file.write(b'{"image": "3.jpg", "caption": "caf\xe9"}\n{"image": "4.jpg", "captions": ["", " "]}\n{"image"\n')
    source = Captions(path)
    reasons = skipped(source)
    assert len(reasons) == len(source) - 3
    for words in (
        "cut.jpg is broken",
        "text.jpg is not a picture",
        "huge.png is too large",
        "no picture at",
        "leads out",
    ):
        assert any(words in reason for reason in reasons), words
    for words in ("not UTF-8", "no caption that is not empty", "is not JSON"):
        assert any(words in reason for reason in reasons), words


def test_a_file_that_disappears_during_the_run(tmp_path: Path) -> None:
    for i in range(6):
        (tmp_path / "cat").mkdir(exist_ok=True)
        (tmp_path / "cat" / f"{i}.jpg").write_bytes(jpeg(i))

    class Named(Folder):
        """Classes as captions."""

        def __getitem__(self, index: int):  # type: ignore[no-untyped-def]  # as the base
            from dataclasses import replace

            sample = super().__getitem__(index)
            return replace(sample, captions=(str(sample.label),))

    source = Named(tmp_path)
    reader = Reader(source, tiny_processor(), batch_size=6, max_skipped=0.5, ahead=0)
    batches = iter(reader)
    assert len(next(batches)) == 6
    (tmp_path / "cat" / "3.jpg").unlink()
    sizes = [len(next(batches)) for _ in range(3)]
    assert sizes[-1] == 5
    assert f"there is no picture at {tmp_path}/cat/3.jpg" in reader.skips.reasons()


def test_a_shard_that_disappears_during_the_run(tmp_path: Path) -> None:
    path = shard(tmp_path / "0.tar", pairs(3))
    source = WebDataset(str(path))
    assert source[2].captions == ("number 2",)
    path.unlink()
    fails(source, 1, r"cannot read the shard .*0\.tar: No such file")


def test_members_of_all_bad_kinds(tmp_path: Path) -> None:
    members = [
        *pairs(4),
        ("5.jpg", jpeg(5)),  # a missing member
        ("6.txt", "text alone"),
        ("../7.jpg", jpeg(7)),
        ("../7.txt", "out"),
        ("/8.jpg", jpeg(8)),
        ("/8.txt", "out"),
        ("0000.jpg", jpeg(9)),  # a key for the second time
        ("0000.txt", "again"),
        ("9.jpg", claims(50_000, 50_000)),
        ("9.txt", "huge"),
        *pairs(4, start=40),
    ]
    whole = shard(tmp_path / "whole.tar", members).read_bytes()
    (tmp_path / "0.tar").write_bytes(whole[: len(whole) - 14_000])
    reasons = skipped(WebDataset(str(tmp_path / "0.tar")))
    assert len(reasons) == 7
    for words in (
        "neither a caption nor a label",
        "has no picture",
        "'../7.jpg' is named out",
        "'/8.jpg' is named out",
        "another sample of the shard has the same key '0000'; only the first is read",
        "whole samples before that are kept",
        "is too large",
    ):
        assert any(words in reason for reason in reasons), words
    assert PIL.Image.MAX_IMAGE_PIXELS is not None  # nobody switched the guard off
