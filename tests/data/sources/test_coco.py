from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from chiasm.config import dump, parse
from chiasm.data.source import Source
from chiasm.data.sources.coco import Coco
from chiasm.errors import DataError
from tests.data.sources.made import OUTSIDE, fails, folder_of_images, jpeg
from tests.shared_data import shared_data


def test_coco_holds_what_its_files_say() -> None:
    folder = shared_data("coco")
    captions, instances = folder / "annotations" / "captions.json", folder / "annotations" / "instances.json"
    told: dict[str, Any] = json.loads(captions.read_text())
    boxed: dict[str, Any] = json.loads(instances.read_text())
    source = Coco(folder / "images", captions, instances)
    assert [one.key for one in source] == [photo["file_name"] for photo in told["images"]]
    assert sum(len(one.captions) for one in source) == len(told["annotations"]) == 1321
    names = {one["id"]: one["name"] for one in boxed["categories"]}
    things = [one for one in boxed["annotations"] if not one["iscrowd"]]
    assert len(things) == 1474 - 15
    assert Counter(box.phrase for one in source for box in one.boxes) == Counter(
        names[one["category_id"]] for one in things
    )
    # A box laid on the real photo is COCO's own box in pixels: the photos have the sizes that the file states.
    by_id = {sample.meta["id"]: sample for sample in source}
    for sample in (source[0], source[100]):
        assert sample.image.size == (sample.meta["width"], sample.meta["height"])
    left = {id_: iter(sample.boxes) for id_, sample in by_id.items()}
    for one in things:
        width, height = by_id[one["image_id"]].image.size
        x0, y0, x1, y1 = next(left[one["image_id"]]).corners
        found = (x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height)
        assert found == pytest.approx(one["bbox"], abs=0.02)  # the file rounds to hundredths of a pixel
    assert source[0].captions[0] == "A woman stands in the dining area at the table."
    assert parse(Source, dump(source)) == source  # type: ignore[type-abstract]  # a choice of the room is built


def test_one_file_alone() -> None:
    folder = shared_data("coco")
    captions = Coco(folder / "images", captions=folder / "annotations" / "captions.json")
    instances = Coco(folder / "images", instances=folder / "annotations" / "instances.json")
    assert len(captions) == len(instances) == 264
    assert not any(one.boxes for one in captions)
    assert not any(one.captions for one in instances)


def write(folder: Path, photos: list[Any], annotations: list[Any]) -> Coco:
    """Both of COCO's files from one list of annotations."""
    sized = [{"width": 24, "height": 16, **photo} if isinstance(photo, dict) else photo for photo in photos]
    categories = [{"id": 1, "name": "cat"}]
    for name, key in (("captions", "caption"), ("instances", "bbox")):
        found = [one for one in annotations if key in one or "broken" in one]
        content = {"images": sized, "annotations": found, "categories": categories}
        (folder / f"{name}.json").write_text(json.dumps(content))
    return Coco(folder, folder / "captions.json", folder / "instances.json")


def test_boxes_are_clipped_and_crowds_left_out(tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "data")
    box = {"image_id": 1, "category_id": 1, "iscrowd": 0, "keypoints": [1, 2, 2], "num_keypoints": 1}
    boxes = [[-6, 4, 12, 4], [12, 8, 100, 100], [30, 2, 4, 4], [3, 3, 0, 5], [6, 0, 6, 16]]
    annotations = [{"image_id": 1, "caption": " a cat "}, {"image_id": 1, "caption": " "}]
    annotations += [{**box, "bbox": bbox} for bbox in boxes] + [{**box, "bbox": [0, 0, 5, 5], "iscrowd": 1}]
    annotations += [{**box, "image_id": 77, "bbox": [0, 0, 5, 5]}]  # a photo that the file does not list
    sample = write(folder, [{"id": 1, "file_name": "0.jpg"}], annotations)[0]
    assert sample.captions == ("a cat",)
    assert [box.corners for box in sample.boxes] == [(0, 0.25, 0.25, 0.5), (0.5, 0.5, 1, 1), (0.25, 0, 0.5, 1)]
    assert {box.phrase for box in sample.boxes} == {"cat"}


def test_boxes_are_relative_to_the_size_that_their_own_file_states(tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "data")
    (folder / "1.jpg").write_bytes(jpeg(0, (10, 20)))  # scaled down as a whole: boxes stay where they are
    box = {"image_id": 1, "category_id": 1, "bbox": [5, 5, 10, 10]}
    write(folder, [{"id": 1, "file_name": "0.jpg", "width": 20, "height": 40}], [box])
    told = {"images": [{"id": id_, "file_name": f"{id_}.jpg"} for id_ in (1, 2)], "annotations": []}
    told["annotations"] = [{"image_id": id_, "caption": "a cat"} for id_ in (1, 2)]
    (folder / "captions.json").write_text(json.dumps(told))
    boxed, other = Coco(folder, folder / "captions.json", folder / "instances.json")
    assert [one.corners for one in boxed.boxes] == [(0.25, 0.125, 0.75, 0.375)]
    assert other.boxes == ()
    write(folder, [{"id": 1, "file_name": "0.jpg", "width": 0}], [{"image_id": 1, "caption": "a"}, box])
    fails(Coco(folder, instances=folder / "instances.json"), 0, "photo '0.jpg' needs a width and a height")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_on_a_picture_that_is_seen_otherwise_is_refused(orientation: int, tmp_path: Path) -> None:
    """As tools write it that do not know EXIF: size and box in the pixels as they are stored."""
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.new("RGB", (120, 80)).save(tmp_path / "0.jpg", exif=exif)
    box = {"image_id": 1, "category_id": 1, "bbox": [5, 10, 30, 20]}
    write(tmp_path, [{"id": 1, "file_name": "0.jpg", "width": 120, "height": 80}], [box])
    source = Coco(tmp_path, instances=tmp_path / "instances.json")
    if orientation < 5:
        assert source[0].boxes
    else:
        fails(source, 0, "stated to have 120x80 pixels, but is seen with 80x120; its EXIF entry turns it")


def test_ids_may_be_texts(tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "data")
    photos = [{"id": "a", "file_name": "0.jpg"}, {"id": "0.jpg", "file_name": "1.jpg"}]
    source = write(folder, photos, [{"image_id": photo["id"], "caption": f"of {photo['id']}"} for photo in photos])
    assert [sample.captions for sample in source] == [("of a",), ("of 0.jpg",)]
    broken = write(folder, photos, [{"image_id": 1.5, "caption": "x"}])
    with pytest.raises(DataError, match=r"the annotation at place 0 has an image_id that is 1\.5"):
        broken[0]


def test_photos_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "data")
    names = ["0.jpg", "absent.jpg", "cut.jpg", "text.jpg", *OUTSIDE]
    photos: list[Any] = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    photos += [{"id": 50, "file_name": "1.jpg"}, {"id": 50, "file_name": "2.jpg"}]
    photos += [{"id": 60, "file_name": "3.jpg"}, {"id": 61, "file_name": "3.jpg"}, {"id": [62]}, {"id": 63}]
    source = write(
        folder, photos, [{"image_id": photo["id"], "caption": "a cat"} for photo in photos if photo["id"] != [62]]
    )
    assert source[0].image.size == (24, 16)
    fails(source, 1, r"captions\.json, photo 'absent\.jpg' is not in the folder")
    fails(source, 2, r"cut\.jpg is broken")
    fails(source, 3, r"text\.jpg is not a picture")
    for index in range(4, 4 + len(OUTSIDE)):
        fails(source, index, "leads out of|names no file|an empty name")
    for index in (-6, -5, -4, -3):
        fails(source, index, "listed more than once")
    for index in (-2, -1):
        fails(source, index, "needs an id .a number or a text. and a file_name")


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ({"caption": ""}, "no caption that is not empty"),
        ({"caption": 5}, "an annotation without a caption"),
        ({"caption": "a", "bbox": [1, 2, 3], "category_id": 1}, r"bbox \[1, 2, 3\]"),
        ({"caption": "a", "bbox": [1, 2, 3, float("nan")], "category_id": 1}, "bbox"),
        ({"caption": "a", "bbox": [1, 2, 3, 4], "category_id": 9}, "category 9"),
        ({"caption": "a", "bbox": [1, 2, 3, 4], "category_id": [1]}, r"category \[1\]"),
    ],
)
def test_wrong_annotations_are_named(annotation: dict[str, object], words: str, tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "data")
    photos = [{"id": 1, "file_name": "0.jpg"}, {"id": 2, "file_name": "1.jpg"}]
    source = write(folder, photos, [{"image_id": 1, **annotation}, {"image_id": 2, "caption": "fine"}])
    fails(source, 0, f"photo '0.jpg'.*{words}")
    assert source[1].captions == ("fine",)


def test_files_that_are_not_cocos_are_refused(tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "data")
    with pytest.raises(DataError, match="its instances file, or both"):
        Coco(folder)
    with pytest.raises(DataError, match="no COCO file at"):
        Coco(folder, tmp_path / "absent.json")
    with pytest.raises(DataError, match="no folder"):
        Coco(tmp_path / "absent", tmp_path / "absent.json")
    path = tmp_path / "captions.json"
    for content, words in (
        (b"[]", "no list of objects called 'images'"),
        (b'{"images": []}', "called 'annotations'"),
        (b'{"images": [3], "annotations": []}', "called 'images'"),
        (b'{"images": [], "annotations": [{}]}', "place 0 has no image_id"),
        (b'{"images": [', "is not JSON"),
        (b'{"images": "\xe9"}', "not UTF-8 at byte 12"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=words):
            len(Coco(folder, path))
