from __future__ import annotations

import csv
import json
from collections import defaultdict
from itertools import islice
from pathlib import Path

import pytest

from chiasm.config import dump, parse
from chiasm.data.reader import Reader
from chiasm.data.source import Source
from chiasm.data.sources.captions import Captions
from chiasm.errors import DataError
from tests.data.sources.made import OUTSIDE, fails, folder_of_images, json_lines
from tests.shared_data import shared_data
from tests.worlds import tiny_processor


def test_flickr8k_as_lines_and_as_tables(tmp_path: Path) -> None:
    folder = shared_data("flickr8k")
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    source = Captions(folder / "captions.jsonl")
    assert [(one.key, list(one.captions), one.meta) for one in source] == [
        (row["image"], [caption.strip() for caption in row["captions"]], {"split": row["split"]}) for row in rows
    ]
    assert source[0].image.decode().size == (150, 200)
    assert len(Captions(folder / "captions.jsonl", split="val")) == sum(row["split"] == "val" for row in rows)
    for suffix, delimiter in (("csv", ","), ("tsv", "\t")):
        path = tmp_path / f"captions.{suffix}"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerow(("filepath", "title", "split"))  # the names that open_clip expects by default
            # One caption a row, the captions of a picture far apart.
            writer.writerows((row["image"], row["captions"][i], row["split"]) for i in range(5) for row in rows)
        table = Captions(path, images=folder)
        assert [(one.key, one.captions, one.meta) for one in table] == [
            (one.key, one.captions, one.meta) for one in source
        ]
        assert table[-1].image.key == source[-1].image.key


def test_rows_of_one_picture_are_one_sample_in_place_of_the_first(tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "data")
    rows = [
        {"image": "1.jpg", "caption": " one ", "url": "a"},
        {"image": "0.jpg", "captions": ["two", " "]},
        {"image": "1.jpg", "captions": ["three", "four"], "url": "b"},
        {"image": "1.jpg", "caption": ""},
    ]
    source = Captions(json_lines(folder / "rows.jsonl", rows))
    assert [(one.key, one.captions, one.meta) for one in source] == [
        ("1.jpg", ("one", "three", "four"), {"url": "a"}),
        ("0.jpg", ("two",), {}),
    ]
    assert parse(Source, dump(source)) == source  # type: ignore[type-abstract]  # a choice of the room is built


def test_keys_of_ones_own(tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "data")
    path = json_lines(folder / "rows.jsonl", [{"image": "wrong", "file": "2.jpg", "text": "a dog", "caption": "wrong"}])
    sample = Captions(path, image_key="file", caption_key="text")[0]
    assert (sample.key, sample.captions, sample.meta) == ("2.jpg", ("a dog",), {"image": "wrong", "caption": "wrong"})
    fails(Captions(path, image_key="path"), 0, "no text under 'path'")


def test_broken_rows_are_named_when_they_are_read(tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "data")
    path = json_lines(
        folder / "rows.jsonl",
        [
            {"image": "0.jpg", "caption": "fine"},
            {"image": "1.jpg", "captions": ["", "  "]},
            {"image": "cut.jpg", "caption": "a truncated file"},
            {"image": "text.jpg", "caption": "a text"},
            {"image": "absent.jpg", "caption": "nothing"},
            {"caption": "no picture"},
            {"image": 7, "caption": "a number"},
            {"image": "2.jpg"},
            {"image": "2.jpg", "captions": ["fine", 3]},
            *({"image": name, "caption": "out"} for name in OUTSIDE),
        ],
    )
    with path.open("ab") as file:
        file.write(b'{"image": "3.jpg", "caption": "caf\xe9"}\n{"image": "3.jpg", "caption"\n')
    source = Captions(path)
    assert source[0].captions == ("fine",)
    assert len(source) == 1 + 7 + len(OUTSIDE) + 2
    fails(source, 1, r"rows\.jsonl, line 2: the picture '1\.jpg' has no caption that is not empty")
    fails(source, 2, r"cut\.jpg is broken")
    fails(source, 3, r"text\.jpg is not a picture")
    fails(source, 4, r"no picture at .*absent\.jpg")
    fails(source, 5, r"line 6 names no picture: it has no text under 'image or filepath'")
    fails(source, 6, "line 7 names no picture")
    fails(source, 7, "line 8 has no captions: 'captions or caption or title' must hold")
    for index in range(8, 8 + len(OUTSIDE)):
        fails(source, index, "leads out of|names no file|an empty name")
    fails(source, -2, "line 17 is not UTF-8")
    fails(source, -1, "line 18 is not JSON")
    with pytest.raises(IndexError):
        source[len(source)]


def test_a_reader_counts_the_broken_rows_and_goes_on(tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "data")
    path = json_lines(folder / "rows.jsonl", [{"image": f"{i}.jpg", "caption": f"number {i}"} for i in range(3)])
    path.write_text(path.read_text() + "broken\n")
    reader = Reader(Captions(path), tiny_processor(), batch_size=4, max_skipped=0.5)
    batches = list(islice(reader, 2))
    assert [len(batch) for batch in batches] == [3, 3]
    assert list(reader.skips.reasons().values()) == [2]
    assert "line 4 is not JSON" in reader.skips.samples[0].reason


def test_what_cannot_be_opened_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no caption file"):
        Captions(tmp_path / "absent.jsonl")
    (tmp_path / "rows.jsnl").write_text("{}")
    with pytest.raises(DataError, match=r"did you mean '\.jsonl'"):
        Captions(tmp_path / "rows.jsnl")
    path = json_lines(tmp_path / "rows.jsonl", [{"image": "1.jpg", "caption": "a", "split": "train"}])
    with pytest.raises(DataError, match="no folder"):
        Captions(path, images=tmp_path / "absent")
    with pytest.raises(DataError, match="no row whose split is 'trian'; did you mean 'train'"):
        len(Captions(path, split="trian"))
    empty = json_lines(tmp_path / "empty.jsonl", [])
    assert len(Captions(empty)) == 0


def test_grouping_agrees_with_a_dictionary(tmp_path: Path) -> None:
    names = [f"{(i * 7919) % 83}.jpg" for i in range(1000)]
    path = json_lines(tmp_path / "rows.jsonl", [{"image": name, "caption": str(i)} for i, name in enumerate(names)])
    expected = defaultdict(list)
    for i, name in enumerate(names):
        expected[name].append(str(i))
    assert [(one.key, list(one.captions)) for one in Captions(path)] == list(expected.items())
