"""Data that comes with packages: questions about shapes, and drawings with captions in many languages."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from chiasm.data.image import Image
from chiasm.data.sample import Text
from chiasm.data.sources.captions import Captions
from chiasm.data.sources.coco import Coco
from chiasm.data.sources.folder import Folder
from chiasm.data.sources.llava import Llava
from chiasm.data.sources.mixture import Mixture
from tests.shared_data import shared_data

STAMPS = Path("/usr/share/tuxpaint/stamps")


def test_questions_of_easy_vqa(tmp_path: Path) -> None:
    """https://github.com/vzhou842/easy-VQA, as LLaVA conversations: every test question about its own picture."""
    easy_vqa: Any = pytest.importorskip("easy_vqa", reason="needs the package easy-vqa: pip install easy-vqa")
    questions, answers, numbers = easy_vqa.get_test_questions()
    files = {number: Path(path) for number, path in easy_vqa.get_test_image_paths().items()}
    folder = next(iter(files.values())).parent
    rows = [
        {
            "id": f"{number}-{place}",
            "image": files[number].name,
            "conversations": [
                {"from": "human", "value": f"<image>\n{question}"},
                {"from": "gpt", "value": answer},
            ],
        }
        for place, (question, answer, number) in enumerate(zip(questions, answers, numbers, strict=True))
    ]
    path = tmp_path / "easy.json"
    path.write_text(json.dumps(rows))
    source = Llava(path, folder)
    assert len(source) == len(questions) > 9000
    for index in (0, 4711, len(source) - 1):
        sample = source[index]
        assert sample.texts == (Text(questions[index], "user"), Text(answers[index], "assistant", target=True))
        assert sample.image.size == (64, 64)
        assert sample.image.key == Image(files[numbers[index]]).key
    said = Counter(text.text for i in range(0, len(source), 97) for text in source[i].texts if text.target)
    assert set(said) <= set(easy_vqa.get_answers())


def _stamp(file: Path) -> dict[str, str]:
    """The captions of a stamp by language: the first line is English, the others are `de.utf8=...`."""
    first, *others = file.read_text(encoding="utf-8").splitlines()
    told = {"en": first}
    for line in others:
        language, found, text = line.partition(".utf8=")
        if found and text.strip():
            told[language] = text.strip()
    return told


def test_captions_in_many_languages_survive(tmp_path: Path) -> None:
    if not STAMPS.is_dir():
        pytest.skip(f"needs the stamps of Tux Paint in {STAMPS}: apt-get install tuxpaint-stamps-default")
    stamps = {file.with_suffix(".png"): _stamp(file) for file in sorted(STAMPS.rglob("*.txt"))[:60]}
    stamps = {picture: told for picture, told in stamps.items() if picture.is_file()}
    names = [picture.relative_to(STAMPS).as_posix() for picture in stamps]
    with (tmp_path / "stamps.jsonl").open("w", encoding="utf-8") as file:
        for name, told in zip(names, stamps.values(), strict=True):
            file.write(json.dumps({"image": name, "captions": list(told.values())}, ensure_ascii=False) + "\n")
    with (tmp_path / "stamps.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "caption", "language"))
        writer.writerows(
            (name, text, language)
            for name, told in zip(names, stamps.values(), strict=True)
            for language, text in told.items()
        )
    expected = [
        (name, tuple(text.strip() for text in told.values())) for name, told in zip(names, stamps.values(), strict=True)
    ]
    for ending in ("jsonl", "csv"):
        source = Captions(tmp_path / f"stamps.{ending}", images=STAMPS)
        assert [(sample.key, sample.captions) for sample in source] == expected
    letters = {letter for _, captions in expected for caption in captions for letter in caption}
    for script in ("狗猫的", "ضفدع", "Жба", "אבג", "ელიპ", "हिन", "あいう"):  # scripts of several families
        assert letters & set(script), script
    assert Captions(tmp_path / "stamps.csv", images=STAMPS)[0].image.decode().mode == "RGB"


def test_three_real_sets_as_one_mixture() -> None:
    """Flickr8k, COCO and CIFAR-10 together: everything that a mixture draws is what its source holds."""
    coco = shared_data("coco")
    annotations = coco / "annotations"
    mixture = Mixture(
        {
            "flickr": Captions(shared_data("flickr8k") / "captions.jsonl", split="train"),
            "coco": Coco(coco / "images", annotations / "captions.json", annotations / "instances.json"),
            "cifar": Folder(shared_data("cifar10") / "test"),
        },
        {"flickr": 2, "coco": 1, "cifar": 1},
    )
    drawn = [mixture[mixture.at(position, 7)] for position in range(400)]
    assert Counter(sample.meta["source"] for sample in drawn) == {"flickr": 200, "coco": 100, "cifar": 100}
    assert len({sample.key for sample in drawn}) == 400
    assert all(sample.captions for sample in drawn if sample.meta["source"] != "cifar")
    assert all(sample.label for sample in drawn if sample.meta["source"] == "cifar")
    assert any(sample.boxes for sample in drawn if sample.meta["source"] == "coco")
    assert {sample.image.size for sample in drawn if sample.meta["source"] == "cifar"} == {(32, 32)}
