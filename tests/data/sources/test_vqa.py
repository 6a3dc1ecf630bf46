from __future__ import annotations

import json
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import PIL.ImageColor
import pytest

from chiasm.config import dump, parse
from chiasm.data.locations import Url
from chiasm.data.source import Source
from chiasm.data.sources.easy_vqa import EasyVQA
from chiasm.data.sources.vqa import VQA
from chiasm.errors import DataError, RecipeError
from tests.data.server import serve
from tests.data.sources.made import fails, folder_of_images


def answered(*answers: str) -> list[dict[str, object]]:
    return [{"answer": one, "answer_confidence": "yes", "answer_id": at} for at, one in enumerate(answers, start=1)]


def vqa(folder: Path, questions: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> VQA:
    """VQAv2's two files with pictures for photos 1, 2 and 3, the second under the name without a subset."""
    images = folder_of_images(folder / "images")
    (images / "0.jpg").rename(images / "COCO_val2014_000000000001.jpg")
    (images / "COCO_val2014_000000000003.jpg").write_bytes((images / "COCO_val2014_000000000001.jpg").read_bytes())
    (images / "000000000002.jpg").write_bytes((images / "COCO_val2014_000000000001.jpg").read_bytes())
    head = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": "val2014"}
    asked, told = folder / "questions.json", folder / "annotations.json"
    asked.write_text(json.dumps({**head, "questions": questions}))
    told.write_text(json.dumps({**head, "annotations": annotations}))
    return VQA(asked, told, images)


def test_vqa_holds_what_its_files_say(tmp_path: Path) -> None:
    ten = ("yes",) * 7 + ("no", "maybe", "yes it is")
    source = vqa(
        tmp_path,
        [
            {"image_id": 3, "question": "Is it red?", "question_id": 30},
            {"image_id": 2, "question": "How many dogs are there?", "question_id": 20},
            {"image_id": 3, "question": "What is it?", "question_id": 31},
        ],
        [
            {
                "question_id": 20,
                "question_type": "how many",
                "answer_type": "number",
                "answers": answered("2", "two", "2"),
            },
            {
                "question_id": 30,
                "question_type": "is it",
                "answer_type": "yes/no",
                "multiple_choice_answer": "yes",
                "answers": answered(*ten),
            },
            {"question_id": 31, "question_type": "what is", "answer_type": "other", "answers": answered("a kite")},
        ],
    )
    assert [sample.key for sample in source] == ["3", "2"]
    first, second = source[0].questions
    assert (first.text, first.answer, first.kind, first.answers) == ("Is it red?", "yes", "yes/no", ten)
    assert (second.text, second.answer, second.answers) == ("What is it?", "a kite", ("a kite",))
    assert source[1].questions[0].answer == "2"
    assert source[1].image.name.endswith("000000000002.jpg")
    assert VQA(source.questions, source.annotations, source.images, "question_type")[0].questions[1].kind == "what is"
    assert parse(Source, dump(source)) == source  # type: ignore[type-abstract]  # a choice of the room is built


def test_what_vqa_lacks_is_named(tmp_path: Path) -> None:
    asked = [{"image_id": photo, "question": "what?", "question_id": photo} for photo in (1, 2, 3, 4)]
    source = vqa(
        tmp_path,
        asked,
        [{"question_id": 1, "answers": []}, {"question_id": 2, "answers": [{"answer": 3}]}, {"question_id": 4}],
    )
    fails(source, 0, r"annotations\.json, question 1 needs a question and a list of answers")
    fails(source, 1, r"question 2 needs a question and a list of answers")
    fails(source, 2, r"question 3 has no annotation")
    fails(source, 3, r"photo 4: neither COCO_val2014_000000000004\.jpg nor 000000000004\.jpg is in")
    (tmp_path / "questions.json").write_text('{"questions": [{"image_id": "1", "question_id": 1}]}')
    with pytest.raises(DataError, match="the question at place 0 needs an image_id and a question_id"):
        len(VQA(source.questions, source.annotations, source.images))
    (tmp_path / "questions.json").write_text("[]")
    with pytest.raises(DataError, match="no list of objects called 'questions'"):
        len(VQA(source.questions, source.annotations, source.images))
    with pytest.raises(DataError, match="there is no file of VQA at"):
        VQA(tmp_path / "absent.json", source.annotations, source.images)


def test_vqa_learns_the_names_in_a_store_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec", reason="URLs are read with fsspec: pip install 'chiasm[data]'")
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data"
    photos = (4, 3, 1, 2)  # 4 is absent, 3 and 1 have the name with the subset
    asked = [{"image_id": photo, "question": "what?", "question_id": photo} for photo in photos]
    vqa(data, asked, [{"question_id": photo, "answers": answered("a kite")} for photo in photos])
    with serve(data) as (address, _):
        root = Url(address)
        source = VQA(root / "questions.json", root / "annotations.json", root / "images")
        assert [source[place].image.name.rpartition("/")[2] for place in range(4)] == [
            f"COCO_val2014_{photo:012}.jpg" for photo in photos
        ]
        assert source[1].image.size == (24, 16)
        fails(source, 0, r"there is no picture at http.*COCO_val2014_000000000004\.jpg")
        with pytest.raises(DataError, match="there is no file of VQA at http"):
            VQA(Url(f"{address}/absent.json"), source.annotations, source.images)


def test_easy_vqa_is_what_its_package_says() -> None:
    spec = find_spec("easy_vqa")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs easy-vqa")
    folder = Path(next(iter(spec.submodule_search_locations))) / "data" / "test"
    source = EasyVQA(folder)
    rows = json.loads((folder / "questions.json").read_text())
    found = [(one.text, one.answer, int(sample.key)) for sample in source for one in sample.questions]
    assert sorted(found) == sorted((text, answer, number) for text, answer, number in rows)
    assert len(source) == len({number for _, _, number in rows}) == len(list((folder / "images").glob("*.png")))
    kinds = Counter(one.kind for sample in source for one in sample.questions)
    names = Counter(
        answer if answer in ("yes", "no", "circle", "rectangle", "triangle") else "" for _, answer, _ in rows
    )
    shapes = names["circle"] + names["rectangle"] + names["triangle"]
    assert kinds == {"yes/no": names["yes"] + names["no"], "shape": shapes, "colour": names[""]}
    assert source[7].image.decode().size == (64, 64)
    asked = {one.text: one for sample in source for one in sample.questions}
    assert asked["what is the blue shape?"].statements == ("a blue circle", "a blue rectangle", "a blue triangle")
    assert asked["what color is the triangle?"].statements[:2] == ("a black triangle", "a blue triangle")
    assert asked["what color is the shape?"].statements[-1] == "a yellow shape"
    without = EasyVQA(folder, leave_out=("yes/no",))
    seen = [(text, answer, number) for text, answer, number in rows if answer not in ("yes", "no")]
    assert sorted((one.text, one.answer, int(each.key)) for each in without for one in each.questions) == sorted(seen)
    assert len(without) == len({number for _, _, number in seen}) < len(source)
    with pytest.raises(RecipeError, match=r"'color' is none of its kinds: yes/no, shape, colour"):
        EasyVQA(folder, leave_out=("color",))


def test_captions_of_easy_vqa_tell_what_the_pixels_show() -> None:
    spec = find_spec("easy_vqa")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs easy-vqa")
    folder = Path(next(iter(spec.submodule_search_locations))) / "data" / "test"
    colours = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
    named = {name: np.array(PIL.ImageColor.getrgb(name)) for name in colours}
    told: Counter[str] = Counter()
    for sample in EasyVQA(folder, leave_out=("colour", "shape")):  # captions tell of questions that are left out, too
        words = sample.captions[0].split()
        levels = np.asarray(sample.image.decode()).astype(int)
        rows, columns = np.where(np.abs(levels - np.median(levels[[0, 0, -1, -1], [0, -1, 0, -1]], 0)).sum(2) > 90)
        colour = np.median(levels[rows, columns], 0)
        filled = len(rows) / ((np.ptp(rows) + 1) * (np.ptp(columns) + 1))  # of the smallest box around it
        shape = "rectangle" if filled > 0.95 else "circle" if filled > 0.7 else "triangle"
        assert set(words) <= {"a", "shape", shape, min(named, key=lambda one: np.abs(named[one] - colour).sum())}
        told[" ".join("colour" if word in named else word for word in words)] += 1
    assert told["a shape"] < 20
    assert sum(told[f"a colour {shape}"] for shape in ("circle", "rectangle", "triangle")) > 850  # nearly nine of ten


def test_what_easy_vqa_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no questions\.json in"):
        EasyVQA(tmp_path)
    (tmp_path / "questions.json").write_text('[["what?", "red", 0]]')
    fails(EasyVQA(tmp_path), 0, r"there is no picture .*0\.png")
    (tmp_path / "questions.json").write_text('[["what?", "red", 0], ["what?", "red"]]')
    with pytest.raises(DataError, match=r"questions\.json, place 1: expected \[question, answer, number"):
        len(EasyVQA(tmp_path))
