from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chiasm.config import dump, parse
from chiasm.data.sample import Text
from chiasm.data.source import Source
from chiasm.data.sources.interleaved import Interleaved
from chiasm.errors import DataError
from tests.data.sources.made import OUTSIDE, fails, folder_of_images, json_lines
from tests.data.sources.test_llava import told
from tests.shared_data import shared_data

WORDS = [("A dog.", "", True), "0.jpg", "1.jpg", ("Two cats.", "", True)]
LAYOUTS: list[dict[str, Any]] = [
    {
        "texts": ["A dog.", None, None, None, "Two cats.", "  "],
        "images": [None, "0.jpg", None, "1.jpg", None, None],
        "metadata": ["x"],
    },
    {
        "text_list": ["A dog.", "Two cats."],
        "image_info": [
            {"image_name": "0.jpg", "matched_text_index": 1, "matched_sim": 0.2},
            {"image_name": "1.jpg", "matched_text_index": 1},
        ],
        "metadata": ["x"],
    },
    {
        "parts": [{"text": "A dog."}, {"image": "0.jpg"}, {"image": "1.jpg"}, {"text": "Two cats."}],
        "metadata": ["x"],
    },
]


def test_all_layouts_give_the_same_parts(tmp_path: Path) -> None:
    images = folder_of_images(tmp_path / "images")
    source = Interleaved(json_lines(tmp_path / "web.jsonl", LAYOUTS), images)
    assert [(one.key, told(one), one.meta) for one in source] == [
        (f"web/{line}", WORDS, {"metadata": ["x"]}) for line in (1, 2, 3)
    ]
    assert parse(Source, dump(source)) == source  # type: ignore[type-abstract]  # a choice of the room is built


def test_a_document_of_real_photos(tmp_path: Path) -> None:
    folder = shared_data("flickr8k")
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()[:12]]
    documents = [
        {
            "texts": [text for row in some for text in (None, row["captions"][0])],
            "images": [name for row in some for name in (row["image"], None)],
        }
        for some in (rows[:5], rows[5:])
    ]
    first, second = Interleaved(json_lines(tmp_path / "photos.jsonl", documents), folder)
    assert (len(first.images), len(second.images)) == (5, 7)
    assert [text.text for text in second.texts] == [row["captions"][0] for row in rows[5:]]
    assert second.parts[1] == Text(rows[5]["captions"][0], target=True)
    assert all(max(image.decode().size) <= 384 for image in (*first.images, *second.images))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"texts": ["a"], "images": [None, "0.jpg"]}, "line 2 has 1 texts but 2 images"),
        ({"texts": ["a"], "images": ["0.jpg"]}, "place 0 has both"),
        ({"texts": ["a"]}, "no list called 'images'"),
        ({"url": "x"}, "no list called 'texts'"),
        ({"texts": [" ", None], "images": [None, None]}, "without any text or picture"),
        ({"texts": [5], "images": [None]}, "has 5 where the words"),
        ({"text_list": ["a"], "image_info": [{"image_name": "0.jpg", "matched_text_index": 1}]}, "the text 1, of 1"),
        ({"text_list": ["a"], "image_info": [{"image_name": "0.jpg"}]}, "the text None"),
        ({"text_list": ["a"], "image_info": [{"matched_text_index": 0}]}, "has None where the words"),
        ({"parts": [{"text": "a", "image": "0.jpg"}]}, "part 0 needs either"),
        ({"parts": ["a"]}, "part 0 needs either"),
        ({"parts": [{"image": "cut.jpg"}]}, r"cut\.jpg is broken"),
        ({"parts": [{"image": "text.jpg"}]}, r"text\.jpg is not a picture"),
        ({"parts": [{"image": "absent.jpg"}]}, r"no picture at .*absent\.jpg"),
        *(({"parts": [{"image": name}]}, "leads out of|names no file|an empty name") for name in OUTSIDE),
    ],
)
def test_broken_documents_are_named(row: dict[str, object], words: str, tmp_path: Path) -> None:
    images = folder_of_images(tmp_path / "images")
    source = Interleaved(json_lines(tmp_path / "web.jsonl", [LAYOUTS[0], row, LAYOUTS[1]]), images)
    assert told(source[0]) == told(source[2]) == WORDS
    fails(source, 1, words)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file of documents"):
        Interleaved(tmp_path / "absent.jsonl")
    path = tmp_path / "web.jsonl"
    path.write_bytes(b'{"parts": [{"text": "caf\xe9"}]}\n{"parts": [{"text": "fine"}]}\n')
    with pytest.raises(DataError, match="no folder"):
        Interleaved(path, tmp_path / "absent")
    fails(Interleaved(path), 0, "line 1 is not UTF-8")
    assert told(Interleaved(path)[1]) == [("fine", "", True)]
