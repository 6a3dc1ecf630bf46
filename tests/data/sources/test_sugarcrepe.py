from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from chiasm.config import dump, parse
from chiasm.data.source import Source
from chiasm.data.sources.sugarcrepe import SugarCrepe
from chiasm.errors import DataError
from tests.data.sources.made import OUTSIDE, fails, folder_of_images
from tests.shared_data import shared_data


def test_sugarcrepe_holds_what_its_files_say() -> None:
    path, images = shared_data("sugarcrepe"), shared_data("coco") / "images"
    source = SugarCrepe(path, images)
    told = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in path.glob("*.json")}
    assert len(source) == sum(len(rows) for rows in told.values()) == 360
    assert Counter(one.negatives[0].kind for one in source) == {kind: len(rows) for kind, rows in told.items()}
    assert len({one.key for one in source}) == 360
    for sample in source:
        _, kind, number = sample.key.split("/")
        row = told[kind][number]
        assert (sample.captions, sample.negatives[0].text) == ((row["caption"],), row["negative_caption"])
        assert str(sample.image.source) == str(images / row["filename"])
    assert max(source[0].image.decode().size) == 384
    assert parse(Source, dump(source)) == source  # type: ignore[type-abstract]  # a choice of the room is built


def test_broken_rows_are_named(tmp_path: Path) -> None:
    images = folder_of_images(tmp_path / "images")
    names = ["0.jpg", "absent.jpg", "cut.jpg", "text.jpg", *OUTSIDE[:-1]]
    rows: dict[str, object] = {
        str(i): {"filename": name, "caption": "a", "negative_caption": "b"} for i, name in enumerate(names)
    }
    rows |= {"x": {"filename": "0.jpg", "caption": "a"}, "y": {**dict.fromkeys(("filename", "caption"), "0.jpg")}}
    rows |= {"z": [], "empty": {"filename": "0.jpg", "caption": " ", "negative_caption": "b"}}
    path = tmp_path / "json"
    path.mkdir()
    with pytest.raises(DataError, match="none of SugarCrepe's"):
        len(SugarCrepe(path, images))
    (path / "swap_obj.json").write_text(json.dumps(rows))
    source = SugarCrepe(path, images)
    assert source[0].negatives[0].kind == "swap_obj"
    fails(source, 1, r"no picture at .*absent\.jpg")
    fails(source, 2, r"cut\.jpg is broken")
    fails(source, 3, r"text\.jpg is not a picture")
    for index in range(4, len(names)):
        fails(source, index, "leads out of|names no file")
    for index in range(len(names), len(source)):
        fails(source, index, r"swap_obj\.json, row \w+ needs a text in each of filename, caption, negative_caption")
    (path / "swap_att.json").write_bytes(b'{"0": "\xe9"}')
    with pytest.raises(DataError, match=r"swap_att\.json is not UTF-8"):
        len(SugarCrepe(path, images))
    (path / "swap_att.json").write_text("[]")
    with pytest.raises(DataError, match="no object of numbered rows"):
        len(SugarCrepe(path, images))
    with pytest.raises(DataError, match="COCO's photos"):
        SugarCrepe(path, tmp_path / "absent")
