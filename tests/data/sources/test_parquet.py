from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chiasm.config import dump, parse
from chiasm.data.image import Image
from chiasm.data.source import Source
from chiasm.data.sources.parquet import Parquet
from chiasm.errors import DataError, MissingExtra
from tests.data.sources.made import OUTSIDE, fails, folder_of_images, jpeg
from tests.shared_data import shared_data

arrow: Any = pytest.importorskip("pyarrow", reason="parquet files are read with pyarrow: pip install 'chiasm[data]'")
parquet: Any = pytest.importorskip("pyarrow.parquet")


def hub(path: Path, rows: list[dict[str, object]], group: int = 4) -> Path:
    """A parquet file with pictures as the Hub stores them."""
    picture = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    columns = {key: [row.get(key) for row in rows] for key in rows[0]}
    arrays = {key: arrow.array(column, picture if key == "image" else None) for key, column in columns.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.table(arrays), path, row_group_size=group)
    return path


def test_real_photos_in_several_files(tmp_path: Path) -> None:
    folder = shared_data("flickr8k")
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()[:30]]
    stored: list[dict[str, object]] = [
        {
            "image": {"bytes": (folder / row["image"]).read_bytes(), "path": row["image"]},
            "caption": row["captions"],
            "split": row["split"],
            "thumbnail": b"\xff",
        }
        for row in rows
    ]
    data = tmp_path / "data"
    hub(data / "train-00000-of-00002.parquet", stored[:17])
    hub(data / "train-00001-of-00002.parquet", stored[17:], group=5)
    hub(data / "test-00000-of-00001.parquet", stored[:1])
    source = Parquet(data / "train-*.parquet", groups=2)
    assert len(source) == 30
    assert len(Parquet(data)) == 31
    assert len(Parquet(tmp_path / "**" / "t*-00000-*.parquet")) == 18
    order = [29, 0, 16, 17, 4, 3, *range(30), -1]
    for index in order:
        sample, row = source[index], rows[index]
        assert list(sample.captions) == [caption.strip() for caption in row["captions"]]
        assert sample.image.key == Image(folder / row["image"]).key
        assert sample.meta == {"split": row["split"]}
    assert source[17].key == "train-00001-of-00002/0"
    assert len({one.key for one in source}) == 30
    assert len(source._table) == 4  # of two windows
    with pytest.raises(IndexError):
        source[30]
    assert parse(Source, dump(source)) == source  # type: ignore[type-abstract]  # a choice of the room is built


def test_a_group_is_read_once_while_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hub(tmp_path / "a.parquet", [{"image": {"bytes": jpeg(i)}, "caption": str(i)} for i in range(8)])
    source = Parquet(path)
    read = []
    original = parquet.ParquetFile.read_row_group

    def counted(file: Any, number: int) -> Any:
        read.append(number)
        return original(file, number)

    monkeypatch.setattr(parquet.ParquetFile, "read_row_group", counted)
    assert [one.captions for one in source] == [(str(i),) for i in range(8)]
    assert read == [0, 1]


def test_pictures_as_bytes_and_as_names(tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "images")
    parquet.write_table(arrow.table({"jpg": [jpeg(1)], "txt": ["one"]}), folder / "a.parquet")
    parquet.write_table(arrow.table({"jpg": ["1.jpg"], "txt": ["one"]}), folder / "b.parquet")
    first, second = Parquet(folder, image="jpg", caption="txt")
    assert first.image.key == second.image.key == Image(jpeg(1)).key
    assert first.captions == second.captions == ("one",)
    assert Parquet(folder, image="jpg", caption=None)[0].captions == ()


def test_broken_rows_are_named(tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "data")
    fine = {"bytes": jpeg(1), "path": None}
    rows: list[dict[str, object]] = [
        {"image": fine, "caption": "fine"},
        {"image": fine, "caption": " "},
        {"image": fine, "caption": None},
        {"image": None, "caption": "a"},
        {"image": {"bytes": None, "path": None}, "caption": "a"},
        {"image": {"bytes": b"", "path": None}, "caption": "a"},
        {"image": {"bytes": jpeg(1, (64, 64))[:900], "path": None}, "caption": "a"},
        {"image": {"bytes": b"no picture", "path": "0.jpg"}, "caption": "a"},
        {"image": {"bytes": None, "path": "cut.jpg"}, "caption": "a"},
        {"image": {"bytes": None, "path": "absent.jpg"}, "caption": "a"},
    ]
    rows += [{"image": {"bytes": None, "path": name}, "caption": "a"} for name in OUTSIDE]
    source = Parquet(hub(folder / "rows.parquet", rows))
    assert source[0].captions == ("fine",)
    fails(source, 1, r"rows\.parquet, row 1 has no caption that is not empty")
    fails(source, 2, "row 2 has no captions: 'caption' must hold")
    for index in (3, 4, 5):
        fails(source, index, f"row {index} has no picture")
    fails(source, 6, "is broken")
    fails(source, 7, "is not a picture")
    fails(source, 8, r"cut\.jpg is broken")
    fails(source, 9, r"no picture at .*absent\.jpg")
    for index in range(10, len(source)):
        fails(source, index, "leads out of|names no file|an empty name")


def test_texts_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    texts = arrow.array([b"fine", b"caf\xe9"], arrow.binary()).view(arrow.string())
    table = arrow.table({"image": [jpeg(1), jpeg(2)], "caption": texts})
    parquet.write_table(table, tmp_path / "rows.parquet")
    source = Parquet(tmp_path / "rows.parquet")
    assert source[0].captions == ("fine",)
    fails(source, 1, "row 1: the column 'caption' cannot be read: a text that is not UTF-8")


def test_columns_that_nobody_asked_for_cost_no_row(tmp_path: Path) -> None:
    far = arrow.array([0, 10**9], arrow.date32())  # the second lies beyond the year 9999
    table = arrow.table({"image": [jpeg(1), jpeg(2)], "caption": ["a dog", "a cat"], "taken": far, "place": ["x", "y"]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    first, second = Parquet(tmp_path / "rows.parquet")
    assert (first.captions, second.captions) == (("a dog",), ("a cat",))
    assert sorted(first.meta) == ["place", "taken"]
    assert second.meta == {"place": "y"}
    fails(Parquet(tmp_path / "rows.parquet", label="taken"), 1, "row 1: the column 'taken' cannot be read")


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"no \.parquet file at"):
        Parquet(tmp_path)
    path = hub(tmp_path / "a.parquet", [{"image": {"bytes": jpeg(i)}, "caption": str(i)} for i in range(8)])
    with pytest.raises(DataError, match="no column 'capton'; did you mean 'caption'"):
        len(Parquet(path, caption="capton"))
    with pytest.raises(DataError, match="at least one row group"):
        Parquet(path, groups=0)
    whole = path.read_bytes()
    for content in (b"", b"no parquet", whole[:-50]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.parquet is not a parquet file that can be read"):
            len(Parquet(path))
    path.write_bytes(whole)
    source = Parquet(path)
    assert len(source) == 8
    path.write_bytes(bytes(len(whole)))
    fails(source, 0, "is not a parquet file that can be read")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"pip install 'chiasm\[data\]'"):
        Parquet(path)
