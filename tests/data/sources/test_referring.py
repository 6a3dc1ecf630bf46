"""Sources of phrases and regions, and the chats that are made of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from chiasm.data.box_formats.kosmos import Kosmos
from chiasm.data.box_formats.location_tokens import LocationTokens
from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.image import Image
from chiasm.data.referring import unambiguous
from chiasm.data.sample import Box, GroundedSpan, Sample, Text
from chiasm.data.sources.grounded import Grounded
from chiasm.data.sources.refcoco import RefCOCO
from chiasm.data.sources.referring import Referring
from chiasm.data.sources.scenes import Scenes
from chiasm.data.transforms import ImageTransform
from chiasm.errors import DataError, RecipeError
from tests.data.sources.made import fails, folder_of_images, jpeg, json_lines
from tests.evaluation.fakes import Listed

LLAVA = {"layout": "fixed", "image_tokens": 3, "transform": {"size": 32, "resize": "squash"}}


def boxed(key: str, *phrases: str) -> Sample:
    boxes = tuple(Box((0.1, 0.1, 0.2 + 0.1 * at, 0.9), one) for at, one in enumerate(phrases))
    return Sample(key, (Image(jpeg(1)),), boxes=boxes)


def test_a_sample_asks_and_answers() -> None:
    source = Referring(Listed((boxed("a", "cat", "dog", "dog", "cow"),)), turns=5)
    texts = source[0].texts
    assert sorted(one.text for one in texts[::2]) == ["Where is cat?", "Where is cow?"]
    for question, answer in zip(texts[::2], texts[1::2], strict=True):
        assert (question.role, question.target) == ("user", False)
        (mention,) = question.grounded_spans
        phrase = question.text[slice(*mention.span)]
        assert (answer.text, answer.role, answer.target) == ("", "assistant", True)
        assert answer.grounded_spans[0].boxes[0].phrase == phrase
    assert source[0] == source[0]


def test_pictures_without_a_clear_phrase_give_way_to_the_next() -> None:
    unclear, clear = boxed("a", "dog", "dog"), boxed("b", "cat")
    assert [Referring(Listed((unclear, clear, unclear)))[at].key for at in range(3)] == ["b", "b", "b"]
    source = Referring(Listed((boxed("a", "cat"), unclear, unclear, boxed("d", "cow"))))
    assert [source[at].key for at in range(4)] == ["a", "d", "d", "d"]
    with pytest.raises(DataError, match="names one region"):
        _ = Referring(Listed((unclear, unclear)))[0]
    with pytest.raises(RecipeError, match=r"needs \{phrase\} once"):
        Referring(Listed((clear,)), question="where?")


def test_what_a_phrase_means_alone() -> None:
    here, there = (0.1, 0.1, 0.3, 0.9), (0.5, 0.1, 0.7, 0.9)
    boxes = (
        Box(here, "Red  cat"), Box(there, "red cat"), Box(here, "dog"), Box(here, "Dog"),
        Box(there, "cow"), Box(there, "sun", image=1), Box(here, " "),
    )  # fmt: skip
    found = unambiguous(Sample("a", (Image(jpeg(1)), Image(jpeg(2))), boxes=boxes))
    assert [(box.phrase, box.corners) for box in found] == [("dog", here), ("cow", there)]


def test_boxes_are_what_is_learned() -> None:
    """From the source to the label mask: the location tokens and the end, and nothing else."""
    source = Referring(Scenes(5, objects=(1, 2)))
    entries = {
        "tokenizer": {"learn": 300},
        "layout": LLAVA,
        "context": 128,
        "boxes": {"boxes": "location_tokens", "bins": 32},
    }
    processor = ChatProcessor.from_recipe(entries, (text.text for one in source for text in one.texts))
    batch = processor([source[at] for at in range(5)])
    assert batch.stream is not None
    learned = batch.stream.ids_T[batch.stream.target_T].tolist()
    assert len(learned) == 5 * 5
    for at in range(5):
        (box,) = source[at].texts[1].grounded_spans[0].boxes
        tokens = learned[5 * at : 5 * at + 5]
        assert tokens[-1] == processor.end_ids[0]
        said = processor.decode(tokens[:-1])
        assert said == LocationTokens(bins=32).write([box.corners])
        found = processor.reading(source[at], said).boxes[0].corners
        assert found == pytest.approx(box.corners, abs=0.51 / 32)


def test_boxes_without_a_convention_are_an_error_that_names_the_sample() -> None:
    processor = ChatProcessor.from_recipe({"tokenizer": {"learn": 300}, "layout": LLAVA, "context": 64}, ["where is"])
    sample = Referring(Listed((boxed("a/1", "cat"),)))[0]
    with pytest.raises(DataError, match=r"'a/1' has boxes to write.*processor\.boxes"):
        processor([sample])
    asked = Sample("b", (Image(jpeg(1)), Text("the cat", grounded_spans=(GroundedSpan((0, 7)),))))
    assert processor.prompts([asked]).stream is not None  # a phrase alone needs none
    with pytest.raises(DataError, match="writes no boxes"):
        processor.reading(asked, "[0.1, 0.2, 0.3, 0.4]")
    moving = {"transform": {"size": 32, "augment": {}}}
    with pytest.raises(RecipeError, match="random views of pictures move"):
        ChatProcessor.from_recipe({"boxes": "floats", "layout": {**LLAVA, **moving}}, ["where is"])


def test_marks_that_are_special_tokens_are_still_said() -> None:
    """In Qwen2-VL's tokenizer they are; decoding without special tokens would leave bare numbers."""
    entries = {"tokenizer": {"learn": 300}, "boxes": "qwen2_vl", "context": 64}
    made = ChatProcessor.from_recipe(entries, ["where is"])
    backend = made.backend
    backend.add_special_tokens(list(made.settings.boxes.marks if made.settings.boxes else ()))
    processor = ChatProcessor(backend, made.settings)
    written = "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(1,2),(30,40)<|box_end|>"
    said = processor.decode([*processor.ids(written), *processor.end_ids])
    (box,) = processor.reading(Sample("a", ()), said).boxes
    assert (box.corners, box.phrase) == ((0.001, 0.002, 0.03, 0.04), "cat")


def test_captions_carry_the_boxes_of_their_phrases() -> None:
    source = Grounded(Scenes(40, seed=2, objects=(3, 6)), prompt="<grounding>")
    several = 0
    for at in range(40):
        sample, scene = source[at], source.of[at]
        prompt, caption = sample.texts
        assert (sample.key, sample.meta, sample.boxes) == (scene.key, scene.meta, scene.boxes)
        assert (prompt.text, caption.text, caption.target) == ("<grounding>", scene.captions[0], True)
        written = Kosmos().written(sample).texts[1].text
        found = Kosmos().read(written)
        assert found.text == scene.captions[0]
        assert sorted(box.phrase for box in found.boxes) == sorted(box.phrase for box in scene.boxes)
        several += any(len(one.boxes) > 1 for one in found.grounded_spans)
    assert several
    nested = (Box((0, 0, 1, 1), "red ball", (2, 10)), Box((0, 0, 1, 1), "ball", (6, 10)))
    one = Sample("a", (Image(jpeg(1)),), ("a red ball",), nested)
    assert [mention.span for mention in Grounded(Listed((one,)))[0].texts[0].grounded_spans] == [(2, 10)]
    spans = ((0, 5), (2, 10), (10, 11))  # the shorter begins first; the last only touches
    apart = tuple(Box((0, 0, 1, 1), "thing", span) for span in spans)
    two = Sample("b", (Image(jpeg(1)),), ("a red ball!",), apart)
    assert [mention.span for mention in Grounded(Listed((two,)))[0].texts[0].grounded_spans] == [(2, 10), (10, 11)]
    with pytest.raises(DataError, match="'a' has no caption in which"):
        _ = Grounded(Listed((boxed("a", "cat"),)))[0]


def test_a_box_that_the_layout_cuts_off_is_not_learned() -> None:
    """Of 24 x 16 pixels a crop shows the middle 16: the first and last sixth of the width are not seen."""
    seen = ImageTransform(size=32).seen((24, 16))
    assert seen == pytest.approx((1 / 6, 0, 5 / 6, 1), abs=0.02)
    wide, tall = Image(jpeg(1)), Image(np.zeros((24, 16, 3), np.uint8))
    for image, resize, corners, lost in (
        (wide, "crop", (0.0, 0.1, 0.15, 0.9), True),
        (wide, "crop", (0.85, 0.1, 1.0, 0.9), True),
        (wide, "crop", (0.0, 0.1, 0.25, 0.9), False),
        (wide, "squash", (0.0, 0.1, 0.15, 0.9), False),
        (wide, "pad", (0.0, 0.1, 0.15, 0.9), False),
        (tall, "crop", (0.1, 0.0, 0.9, 0.15), True),
        (tall, "crop", (0.1, 0.85, 0.9, 1.0), True),
        (tall, "crop", (0.0, 0.1, 0.15, 0.9), False),
    ):
        layout = {"layout": "fixed", "image_tokens": 3, "transform": {"size": 32, "resize": resize}}
        entries = {"tokenizer": {"learn": 300}, "layout": layout, "context": 64, "boxes": "floats"}
        processor = ChatProcessor.from_recipe(entries, ["where is"])
        sample = Referring(Listed((Sample("a/1", (image,), boxes=(Box(corners, "cat"),)),)))[0]
        if lost:
            with pytest.raises(DataError, match=r"'a/1'.*cut off"):
                processor([sample])
        else:
            assert len(processor([sample])) == 1
        known = Text("it", "user", grounded_spans=(GroundedSpan((0, 2), (Box(corners, "cat"),)),))
        assert len(processor([Sample("b", (image, known, Text("yes", "assistant", target=True)))])) == 1


def test_refcoco_of_rows(tmp_path: Path) -> None:
    images = folder_of_images(tmp_path / "images")
    rows = [
        {"image": "0.jpg", "sent": "the cat ", "bbox": [2.4, 1.6, 12, 8], "width": 24, "height": 16},
        {"img_path": "1.jpg", "expression": "a dog", "bbox": [0, 0, 99, 16]},
        {"file_name": "0.jpg", "sentences": [{"sent": "left cow"}, "a cow"], "bbox": [0, 0, 12, 16]},
    ]
    source = RefCOCO(json_lines(tmp_path / "a.jsonl", rows), images)
    assert [one.key for one in source] == ["0.jpg", "1.jpg"]
    assert [box.phrase for box in source[0].boxes] == ["the cat", "left cow", "a cow"]
    assert source[0].boxes[0].corners == pytest.approx((0.1, 0.1, 0.5, 0.5))
    assert source[1].boxes[0].corners == (0, 0, 1, 1)  # clipped; the size is the picture's own
    (tmp_path / "b.json").write_text(json.dumps(rows))
    assert RefCOCO(tmp_path / "b.json", images)[0].boxes == source[0].boxes
    wide = RefCOCO(tmp_path / "b.json", images, corners="xywh")
    assert wide[0].boxes[0].corners == pytest.approx((0.1, 0.1, 0.6, 0.6))


def test_refcoco_of_refs_and_instances(tmp_path: Path) -> None:
    images = folder_of_images(tmp_path / "images")
    photos = [{"id": 7, "file_name": "0.jpg", "width": 24, "height": 16}, {"id": 8, "file_name": "1.jpg"}]
    told = [{"id": 70, "image_id": 7, "bbox": [6, 4, 6, 4]}, {"id": 80, "image_id": 8, "bbox": [0, 0, 12, 16]}]
    (tmp_path / "instances.json").write_text(json.dumps({"images": photos, "annotations": told}))
    refs = [
        {"ann_id": 80, "image_id": 8, "split": "val", "sentences": [{"sent": "a cow", "raw": "A cow."}]},
        {"ann_id": 70, "image_id": 7, "split": "testA", "sentences": [{"sent": "the cat"}]},
        {"ann_id": 99, "image_id": 9, "split": "train", "sentences": [{"sent": "lost"}]},
    ]
    (tmp_path / "refs.json").write_text(json.dumps(refs))
    whole = RefCOCO(tmp_path / "refs.json", images, instances=tmp_path / "instances.json")
    assert [one.key for one in (whole[0], whole[1])] == ["1.jpg", "0.jpg"]
    assert whole[0].boxes[0].corners == (0, 0, 0.5, 1)
    assert whole[1].boxes[0].corners == (0.25, 0.25, 0.5, 0.5)
    fails(whole, 2, r"refs\.json, row 2: .* has no box with its ann_id 99")
    part = RefCOCO(tmp_path / "refs.json", images, instances=tmp_path / "instances.json", split="testA")
    assert [one.key for one in part] == ["0.jpg"]


def test_rows_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    images = folder_of_images(tmp_path / "images")
    rows: list[tuple[dict[str, object], str]] = [
        ({"image": "0.jpg", "sent": "cat", "bbox": [30, 0, 40, 8]}, "has no area inside of '0.jpg', 24 x 16"),
        ({"image": "0.jpg", "sent": "cat", "bbox": [1, 2, 3]}, "not four numbers"),
        ({"image": "0.jpg", "sent": "cat", "bbox": [1, 2, 3, True]}, "not four numbers"),
        ({"image": "0.jpg", "sent": "cat", "bbox": [1, 2, 3, float("inf")]}, "not four numbers"),
        ({"image": "0.jpg", "sent": " ", "bbox": [1, 2, 3, 4]}, "needs a phrase"),
        ({"sent": "cat", "bbox": [1, 2, 3, 4]}, "no photo under"),
        ({"image": "../secret.jpg", "sent": "cat", "bbox": [1, 2, 3, 4]}, "leads out of the folder"),
        ({"image": "0.jpg", "sent": "cat", "bbox": [1, 2, 3, 4], "width": 0, "height": 4}, "no sizes in pixels"),
        ({"image_id": [1], "sent": "cat", "bbox": [1, 2, 3, 4]}, "no photo under"),
    ]
    for at, (row, words) in enumerate(rows):
        fails(RefCOCO(json_lines(tmp_path / f"{at}.jsonl", [row]), images), 0, words)
    twice = [{"image_id": 1, "image": f"{at}.jpg", "sent": "cat", "bbox": [1, 2, 3, 4]} for at in range(2)]
    fails(
        RefCOCO(json_lines(tmp_path / "twice.jsonl", twice), images), 0, "line 2: .*'1.jpg' has the image_id of '0.jpg'"
    )
    with pytest.raises(DataError, match="no file of phrases"):
        RefCOCO(tmp_path / "none.json", images)
