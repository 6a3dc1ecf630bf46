from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chiasm.config import dump, parse
from chiasm.data.sample import Image, Sample, Text, Video
from chiasm.data.source import Source
from chiasm.data.sources.llava import Llava
from chiasm.errors import DataError
from tests.data.sources.made import OUTSIDE, fails, folder_of_images, json_lines
from tests.shared_data import shared_data

# The example row of LLaVA's guide to custom data, with a picture's name changed.
GUIDE = {
    "id": "997bb945-628d-4724-b370-b84de974a19f",
    "image": "0.jpg",
    "conversations": [
        {"from": "human", "value": "<image>\nWrite a prompt for Stable Diffusion to generate this image."},
        {"from": "gpt", "value": "a beautiful painting of chernobyl by nekro, pascal blanche"},
    ],
}


def turns(*values: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[place % 2], "value": value} for place, value in enumerate(values)]


def told(sample: Sample) -> list[object]:
    """The parts as plain values: file names, and texts with role and target."""
    return [
        Path(str(part.source)).name if isinstance(part, Image) else (part.text, part.role, part.target)
        for part in sample.parts
        if isinstance(part, (Image, Text))
    ]


def test_parts_stand_in_reading_order(tmp_path: Path) -> None:
    images = folder_of_images(tmp_path / "images")
    rows: list[dict[str, Any]] = [
        GUIDE,
        {"id": 7, "conversations": turns("Hi\n", "<b>Hello</b>\n"), "source": "sharegpt"},
        {
            "id": "same",
            "image": ["0.jpg", "1.jpg", "2.jpg", "0.jpg"],
            "conversations": [
                {"from": "system", "value": "Be brief."},
                *turns("<image><image>\nWhich is <image> ?", "The first.\n<image>", "Why?\n", "So."),
            ],
        },
        {"id": "same", "image": ["1.jpg"], "conversations": turns("What is it?\n<image>", "A dog.")},
    ]
    lines = Llava(json_lines(tmp_path / "rows.jsonl", rows), images)
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, indent=1))
    source = Llava(path, images)
    assert [(one.key, told(one), one.meta) for one in lines] == [(one.key, told(one), one.meta) for one in source]
    assert told(source[0]) == [
        "0.jpg",
        ("Write a prompt for Stable Diffusion to generate this image.", "user", False),
        ("a beautiful painting of chernobyl by nekro, pascal blanche", "assistant", True),
    ]
    assert told(source[1]) == [("Hi\n", "user", False), ("<b>Hello</b>\n", "assistant", True)]
    assert source[1].meta == {"id": 7, "source": "sharegpt"}
    assert told(source[2]) == [
        ("Be brief.", "system", False),
        "0.jpg",
        "1.jpg",
        ("Which is ", "user", False),
        "2.jpg",
        (" ?", "user", False),
        ("The first.", "assistant", True),
        "0.jpg",
        ("Why?\n", "user", False),
        ("So.", "assistant", True),
    ]
    assert told(source[3]) == [("What is it?", "user", False), "1.jpg", ("A dog.", "assistant", True)]
    assert len({one.key for one in source}) == 4
    assert source[3].key == "3/same"
    assert parse(Source, dump(source)) == source  # type: ignore[type-abstract]  # a choice of the room is built


def test_real_photos(tmp_path: Path) -> None:
    folder = shared_data("coco")
    captions = json.loads((folder / "annotations" / "captions.json").read_text())
    names = {photo["id"]: photo["file_name"] for photo in captions["images"]}
    rows = [
        {
            "id": one["id"],
            "image": names[one["image_id"]],
            "conversations": turns("<image>\nDescribe it.", one["caption"]),
        }
        for one in captions["annotations"]
    ]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, ensure_ascii=False))
    source = Llava(path, folder / "images")
    assert len(source) == 1321
    for index in (0, 700, 1320):
        sample = source[index]
        assert sample.texts[-1] == Text(captions["annotations"][index]["caption"], "assistant", target=True)
        assert sample.image.key == Image(folder / "images" / rows[index]["image"]).key


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": None}, r"\(id 'broken'\) has 1 <image> placeholders but 0 images"),
        ({"image": ["0.jpg", "1.jpg"]}, "has 1 <image> placeholders but 2 images"),
        ({"conversations": turns("What?", "A dog.")}, "has 0 <image> placeholders but 1 images"),
        ({"conversations": turns("<image> <image>", "A dog.")}, "has 2 <image> placeholders but 1 images"),
        ({"conversations": turns("<image>", " \n")}, "turn 1, by the assistant, is empty"),
        ({"conversations": [{"from": "gtp", "value": "A dog."}]}, "turn 0 needs 'from' .one of human"),
        ({"conversations": [{"from": "gpt", "value": None}]}, "turn 0 needs 'from'"),
        ({"conversations": ["<image>"]}, "turn 0 needs 'from'"),
        ({"conversations": []}, "no list of turns"),
        ({"conversations": None}, "no list of turns"),
        ({"image": 5}, "'image' must name a file"),
        ({"image": [None]}, "'image' must name a file"),
        ({"image": "cut.jpg"}, r"cut\.jpg is broken"),
        ({"image": "text.jpg"}, r"text\.jpg is not a picture"),
        ({"image": "absent.jpg"}, r"no picture at .*absent\.jpg"),
        *(({"image": name}, "leads out of|names no file|an empty name") for name in OUTSIDE),
    ],
)
def test_broken_rows_are_named(change: dict[str, object], words: str, tmp_path: Path) -> None:
    images = folder_of_images(tmp_path / "images")
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([GUIDE, {**GUIDE, "id": "broken", **change}]))
    source = Llava(path, images)
    assert source[0].image.size == (24, 16)
    fails(source, 1, words)


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.yaml"
    path.write_text("[]")
    for absent in (path, tmp_path / "absent.json"):
        with pytest.raises(DataError, match="no file of conversations"):
            Llava(absent)
    path = tmp_path / "rows.json"
    path.write_bytes(b'[{"id": "caf\xe9"}]')
    with pytest.raises(DataError, match=r"rows\.json is not UTF-8 at byte 12"):
        len(Llava(path))
    with pytest.raises(DataError, match="no folder"):
        Llava(path, tmp_path / "absent")
    path.write_text("[]")
    assert len(Llava(path)) == 0


def test_pictures_belong_to_the_turn_that_names_them(tmp_path: Path) -> None:
    """Behind the words too, where the next text is the assistant's."""
    folder = folder_of_images(tmp_path)
    rows = [
        {"id": 1, "image": ["0.jpg", "1.jpg"], "conversations": turns("What?\n<image>", "A dog.", "<image>", "A cat.")}
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    (sample,) = Llava(folder / "rows.json")
    assert [(role, [type(part).__name__ for part in parts]) for role, parts in sample.turns] == [
        ("user", ["Text", "Image"]),
        ("assistant", ["Text"]),
        ("user", ["Image"]),
        ("assistant", ["Text"]),
    ]


def test_videos_stand_at_their_places(tmp_path: Path) -> None:
    """As the rows of Video-LLaVA and LLaVA-NeXT-Video; a video is opened when it is read."""
    folder = folder_of_images(tmp_path / "media")
    conversation = turns("<video>\nDoes it look like <image>?", "Yes.")
    rows = [
        {"id": 1, "video": "film.mp4", "image": "0.jpg", "conversations": conversation},
        {"id": 2, "video": ["a.mp4", "b.mp4"], "conversations": turns("<video>", "No.")},
        {"id": 3, "video": "../film.mp4", "conversations": turns("<video>", "No.")},
    ]
    source = Llava(json_lines(tmp_path / "rows.jsonl", rows), folder)
    clip, *rest = source[0].parts
    assert isinstance(clip, Video)
    assert clip.source == folder / "film.mp4"
    assert told(Sample("", tuple(rest))) == [
        ("Does it look like ", "user", False),
        "0.jpg",
        ("?", "user", False),
        ("Yes.", "assistant", True),
    ]
    with pytest.raises(DataError, match="1 <video> placeholders but 2 videos; they must agree"):
        source[1]
    with pytest.raises(DataError, match="leads out of the folder"):
        source[2]
