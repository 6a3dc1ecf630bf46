"""Benchmarks as they are published: read, asked, and refused where broken."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from chiasm.config import dump, parse
from chiasm.data.locations import Url
from chiasm.data.source import Source
from chiasm.data.sources.aro import Aro
from chiasm.data.sources.mmbench import MMBench
from chiasm.data.sources.pope import Pope
from chiasm.data.sources.scienceqa import ScienceQA
from chiasm.data.sources.seed_bench import SeedBench
from chiasm.data.sources.winoground import Winoground
from chiasm.errors import DataError
from chiasm.evaluation.request import ScoreOrGenerate, ScoreRequest
from chiasm.evaluation.tasks.existence import Existence
from chiasm.evaluation.tasks.multiple_choice import MultipleChoice
from chiasm.evaluation.tasks.pairs import Pairs
from chiasm.evaluation.tasks.quadruples import Quadruples
from tests.data.server import serve
from tests.data.sources.made import OUTSIDE, fails, folder_of_images, jpeg, json_lines


def round_trips(source: Source) -> None:
    assert parse(Source, dump(source)) == source  # type: ignore[type-abstract]  # a choice of the room is built


def test_winoground_feeds_quadruples(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("ex_0_img_0", "ex_0_img_1"):
        PIL.Image.fromarray(np.full((8, 8, 3), len(name), np.uint8)).save(images / f"{name}.png")
    row = {
        "id": 0,
        "caption_0": "an old person kisses a young person",
        "caption_1": "a young person kisses an old person",
        "image_0": "ex_0_img_0",
        "image_1": "ex_0_img_1",
        "tag": "Adjective-Age",
        "secondary_tag": "",
        "num_main_preds": 1,
        "collapsed_tag": "Object",
    }
    path = json_lines(tmp_path / "examples.jsonl", [row, {**row, "image_1": OUTSIDE[0]}, {**row, "caption_1": ""}])
    source = Winoground(path)
    round_trips(source)
    sample = source[0]
    assert [type(part).__name__ for part in sample.parts] == ["Image", "Text", "Image", "Text"]
    assert sample.images[1].size == (8, 8)
    question, *broken = Quadruples(source).requests
    assert isinstance(question, ScoreRequest)
    assert (question.kind, question.texts[0]) == ("Object", ("an old person kisses a young person",))
    assert len(broken) == 2
    fails(source, 1, "leads out of")
    fails(source, 2, "line 3 needs a text in each of caption_0")
    with pytest.raises(DataError, match="no folder"):
        Winoground(path, tmp_path / "absent")


def test_aro_cuts_the_region(tmp_path: Path) -> None:
    images = folder_of_images(tmp_path / "images")
    box = {"bbox_x": 3, "bbox_y": 2, "bbox_w": 10, "bbox_h": 5}
    row = {"image_path": "0.jpg", "true_caption": "the dog on the mat", "false_caption": "the mat on the dog", **box}
    rows = [
        {**row, "relation_name": "on"},
        {**row, "image_path": "1.jpg", "attributes": ["red", "old"]},
        {**row, "bbox_w": 0},
        {**row, "image_path": "/etc/hostname"},
        {**row, "true_caption": 3},
    ]
    path = tmp_path / "visual_genome_relation.json"
    path.write_text(json.dumps(rows))
    source = Aro(path)
    round_trips(source)
    image = source[0].image
    whole = PIL.Image.open(images / "0.jpg").convert("RGB")
    np.testing.assert_array_equal(np.asarray(image.decode()), np.asarray(whole.crop((3, 2, 13, 7))))
    assert image.size == (10, 5)
    assert len({source[0].image.key, source[1].image.key, image.key}) == 2
    assert [one.negatives[0].kind for one in (source[0], source[1])] == ["on", "attribution"]
    assert Pairs(source, limit=1).requests[0].key == "visual_genome_relation/0/on/0"
    fails(source, 2, "needs whole pixels in bbox_x")
    fails(source, 3, "leads out of")
    fails(source, 4, "needs a text in each of image_path")


def test_aro_cuts_a_picture_in_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec", reason="URLs are read with fsspec: pip install 'chiasm[data]'")
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    images = folder_of_images(tmp_path / "data" / "images")
    row = {"true_caption": "the dog on the mat", "false_caption": "the mat on the dog"}
    box = {"bbox_x": 3, "bbox_y": 2, "bbox_w": 40, "bbox_h": 5}
    rows = [{"image_path": name, **row, **box} for name in ("0.jpg", "absent.jpg", "../secret.jpg")]
    (tmp_path / "data" / "relation.json").write_text(json.dumps(rows))
    with serve(tmp_path / "data") as (address, asked):
        source = Aro(Url(f"{address}/relation.json"))
        image = source[0].image
        assert image.size == (40, 5)
        assert not any("0.jpg" in path for path, _ in asked)  # nothing is fetched before it is needed
        whole = PIL.Image.open(images / "0.jpg").convert("RGB")
        np.testing.assert_array_equal(image.pixels_uint8(), np.asarray(whole.crop((3, 2, 43, 7))))
        assert image.name == f"{address}/images/0.jpg cut to (3, 2, 43, 7)"
        fails(source, 1, "there is no picture at http.*/images/absent.jpg")
        fails(source, 2, "leads out of")


def test_one_file_of_pope_in_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec", reason="URLs are read with fsspec: pip install 'chiasm[data]'")
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    folder_of_images(tmp_path / "data" / "images")
    row = {"question_id": 5, "image": "0.jpg", "text": "Is there a dog in the image?", "label": "no"}
    json_lines(tmp_path / "data" / "coco_pope_random.json", [row])
    with serve(tmp_path / "data") as (address, _):
        source = Pope(Url(f"{address}/coco_pope_random.json"), Url(f"{address}/images"))
        assert [one.key for one in source] == ["coco_pope_random/5"]
        with pytest.raises(DataError, match="there is no file or folder http"):
            Pope(Url(f"{address}/absent.json"), Url(f"{address}/images"))


def test_pope_files_become_polls(tmp_path: Path) -> None:
    images, folder = folder_of_images(tmp_path / "images"), tmp_path / "pope"
    folder.mkdir()
    asked = [
        ("Is there a snowboard in the image?", "yes"),
        ("Is there an orange in the imange?", "no"),
        ("Do you see a dog?", "no"),
    ]
    for split in ("random", "popular"):
        rows = [
            {"question_id": at + 1, "image": f"{at}.jpg", "text": text, "label": label}
            for at, (text, label) in enumerate(asked)
        ]
        json_lines(folder / f"coco_pope_{split}.json", rows)
    source = Pope(folder, images)
    round_trips(source)
    assert len(source) == 6
    assert [one.key for one in source][2:4] == ["coco_pope_popular/3", "coco_pope_random/1"]
    assert source[-1].key == "coco_pope_random/3"
    task = Existence(source, polls="questions", ending="")
    first, second, third = (one for one in task.requests[:3])
    assert isinstance(first, ScoreOrGenerate)
    assert isinstance(second, ScoreOrGenerate)
    assert (first.texts, first.true) == ((("there is a snowboard",), ("there is no snowboard",)), (0,))
    assert (second.texts[0], second.true) == (("there is an orange",), (1,))
    assert second.words.sample.texts[-1].text == asked[1][0]  # asked as it was published
    assert "has no statements" in getattr(third, "reason", "")
    worded = Existence(source, polls="questions", form="words").requests
    assert all(isinstance(one, ScoreOrGenerate) and one.words_only for one in worded)
    (folder / "coco_pope_random.json").write_text('{"image": "0.jpg", "text": "?", "label": "perhaps"}\n')
    fails(Pope(folder / "coco_pope_random.json", images), 0, "has the label 'perhaps'")


def mmbench(path: Path, rows: list[Mapping[str, str]]) -> MMBench:
    columns = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "split")
    lines = ["\t".join(columns), *("\t".join(row.get(name, "") for name in columns) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return MMBench(path)


def test_mmbench_tables(tmp_path: Path) -> None:
    picture = base64.b64encode(jpeg(1, (500, 500))).decode()
    assert len(picture) > 131_072  # more than a field of the csv module may hold by default
    row = {
        "index": "241",
        "question": "Which one?",
        "hint": '"Look\tat\n""it""."',
        "A": "one",
        "B": "two",
        "C": "three",
        "D": "nan",
        "answer": "B",
        "category": "counting",
        "image": picture,
    }
    rows: list[Mapping[str, str]] = [
        row,
        {**row, "index": "252", "image": "241", "hint": "nan"},
        {**row, "index": "1000241", "A": "three", "B": "one", "C": "two", "answer": "C"},
        {**row, "index": "253", "answer": ""},
        {**row, "index": "254", "image": "999"},
        {**row, "index": "255", "image": "*" * 80},
    ]
    source = mmbench(tmp_path / "dev.tsv", rows)
    round_trips(source)
    assert len(source) == 5  # the rotation of the first is left out
    (asked,) = source[0].questions
    assert (asked.text, asked.answer, asked.choices, asked.kind) == (
        'Look\tat\n"it".\nWhich one?',
        "two",
        ("one", "two", "three"),
        "counting",
    )
    assert source[1].image.key == source[0].image.key
    assert source[1].questions[0].text == "Which one?"
    assert source[0].image.size == (500, 500)
    fails(source, 2, "needs a question and an answer that is one of A, B, C")
    fails(source, 3, "the index of no row")
    fails(source, 4, "not base64")
    with pytest.raises(DataError, match="line 2: a quote is opened there and never closed"):
        len(mmbench(tmp_path / "open.tsv", [{**row, "hint": '"Look'}]))
    circular = MultipleChoice(source, order="circular", form="words", limit=1)
    assert [one.true for one in circular.requests if isinstance(one, ScoreOrGenerate)] == [(1,), (0,), (2,)]


def test_scienceqa_problems(tmp_path: Path) -> None:
    folder_of_images(tmp_path / "images" / "test" / "7")
    row = {
        "question": "Which animal?",
        "choices": ["cat", "dog"],
        "answer": 1,
        "hint": "",
        "image": "0.jpg",
        "split": "test",
        "subject": "natural science",
    }
    problems = {"7": row, "8": {**row, "image": None}, "9": {**row, "split": "val"}, "10": {**row, "answer": 2}}
    path = tmp_path / "problems.json"
    path.write_text(json.dumps(problems))
    source = ScienceQA(path)
    round_trips(source)
    assert [len(source), len(replace(source, split="val"))] == [2, 1]
    (asked,) = source[0].questions
    assert (asked.text, asked.answer, asked.kind) == ("Which animal?", "dog", "natural science")
    assert source[0].image.size == (24, 16)
    fails(source, 1, "the place of one of its 2 choices")


def test_seed_bench_questions(tmp_path: Path) -> None:
    images = folder_of_images(tmp_path / "images")
    row = {
        "question": "How many?",
        "question_id": "101",
        "question_type_id": 5,
        "data_id": "0.jpg",
        "data_type": "image",
        "answer": "C",
        **{f"choice_{one}": one * 2 for one in "abcd"},
    }
    rows = [row, {**row, "data_type": "video"}, {**row, "answer": "E"}, {**row, "data_id": "../secret.jpg"}]
    path = tmp_path / "SEED-Bench.json"
    path.write_text(json.dumps({"questions": rows, "question_type": {"Instances Counting": 5}}))
    source = SeedBench(path, images)
    round_trips(source)
    assert len(source) == 3
    (asked,) = source[0].questions
    assert (asked.answer, asked.choices, asked.kind) == ("cc", ("aa", "bb", "cc", "dd"), "Instances Counting")
    fails(source, 1, "the letter of one as its answer")
    fails(source, 2, "leads out of")
    path.write_text("[]")
    with pytest.raises(DataError, match="no list of objects called 'questions'"):
        len(SeedBench(path, images))
