from __future__ import annotations

import json
import re
from pathlib import Path

import PIL.Image
import pytest

from chiasm.cli import main
from tests.diagnosis.planted import add, chat, clean, jpeg, photo


def test_doctor_tells_names_and_stops_a_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(clean(tmp_path))
    assert main(["doctor", file]) == 0
    assert re.search(r"\. Read in [\d.]+ s: all 24 samples of training\.", capsys.readouterr().out)
    add(tmp_path, "cut.jpg", jpeg(photo(50, 400, 300))[:900], ["a caption"])
    page, facts = tmp_path / "page.html", tmp_path / "facts.json"
    assert main(["doctor", file, "data.max_skipped=0.01", "--all", "--json", str(facts), "--out", str(page)]) == 1
    out = capsys.readouterr().out
    assert "training 24 (cut.jpg)" in out
    assert "1 error, " in out
    found = json.loads(facts.read_text())
    broken = next(one for one in found["findings"] if one["check"] == "readable")
    assert (broken["severity"], broken["count"], broken["rows"][0]["name"]) == ("error", 1, "training 24 (cut.jpg)")
    assert found["read"] == [{"name": "training", "read": 25, "of": 25}]
    text = page.read_text()
    assert "training 24 (cut.jpg)" in text
    assert "<script" not in text


def test_the_page_shows_pictures_and_escapes_what_strangers_wrote(tmp_path: Path) -> None:
    file = clean(tmp_path)
    add(tmp_path, "copy.jpg", (tmp_path / "3.jpg").read_bytes(), ["<img src=x onerror=alert(1)>"])
    add(tmp_path, "again.jpg", jpeg(photo(99)), ["<img src=x onerror=alert(1)>"])
    assert main(["doctor", str(file), "--out", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    assert "data:image/jpeg;base64," in text
    assert "<img src=x" not in text
    assert "&lt;img src=x" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["doctor", "clip/scnes"], "did you mean 'clip/scenes'?"),
        (["doctor", "clip/scenes", "--sample", "0"], "--sample must be at least 1"),
        (["show", "scenes", "--count", "0"], "--count must be at least 1"),
        (["show", "clip/scenes", "--batch", "processor.tokenizer.learn=9"], "needs at least 259 tokens"),
        (["show", "clip/scenes", "--source", "llava", "path=absent.json"], "absent.json"),
    ],
)
def test_mistakes_are_one_sentence(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_a_batch_is_shown_as_the_model_gets_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["show", str(clean(tmp_path)), "--batch", "--count", "5"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "(5, 3, 64, 64) float32" in out
    assert "<|startoftext|> soft patches, number" in out
    assert main([*words, "--out", str(tmp_path / "batch.html")]) == 0
    assert (tmp_path / "batch.html").read_text().count("data:image/png;base64,") == 5
    assert main([*words, "--out", str(tmp_path / "batch.png")]) == 0
    with PIL.Image.open(tmp_path / "batch.png") as sheet:
        assert sheet.width == 1600


def test_chats_are_shown_with_what_is_learned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo(1).save(tmp_path / "1.png")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Soft <b>patches</b>."}]
    file = str(chat(tmp_path, [{"id": "a", "image": "1.png", "conversations": turns}] * 3))
    source = ["--source", "llava", f"path={tmp_path}/rows.json"]
    assert main(["show", file, *source]) == 0
    assert "<image> x 16" in capsys.readouterr().out
    page = tmp_path / "chats.html"
    assert main(["show", file, *source, "--out", str(page)]) == 0
    assert '<span class="picture">&lt;image&gt; x 16</span>' in page.read_text()
    assert '<span class="learned">Soft &lt;b&gt;patches&lt;/b&gt;.&lt;|endoftext|&gt;</span>' in page.read_text()
    assert main(["show", file, "--batch"]) == 0
    assert "16 for pictures" in capsys.readouterr().out


def test_a_checkpoint_is_shown_with_its_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    task = f"evaluation=[{{task: retrieval, data: {{source: captions, path: {tmp_path}/train.jsonl}}, limit: 4}}]"
    assert main(["train", str(clean(tmp_path)), "training.steps=2", task, "--out", str(run)]) == 0
    capsys.readouterr()
    assert main(["show", str(run)]) == 0
    out = capsys.readouterr().out
    for told in ("1,476,313 in 123 tensors", "0 to 3  4 x 198,272", "retrieval: image to text R@1", "<|endoftext|>"):
        assert told in out
    assert "last step" in out
    page = tmp_path / "page.html"
    assert main(["show", str(run / "checkpoint"), "--depth", "9", "--out", str(page)]) == 0
    text = page.read_text()
    assert "retrieval: image to text R@1" in text, "the card has the scores where the results are not there"
    assert "(512, 128) float32" in text


def test_a_foreign_checkpoint_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from chiasm.weights.transformers import save
    from tests.worlds import tiny_clip

    save(tiny_clip(), tmp_path / "theirs")
    assert main(["show", str(tmp_path / "theirs")]) == 0
    assert "transformers (clip)" in capsys.readouterr().out


def test_samples_with_boxes_as_a_page(tmp_path: Path) -> None:
    page = tmp_path / "scenes.html"
    assert main(["show", "scenes", "--count", "3", "--boxes", "--out", str(page)]) == 0
    assert page.read_text().count("data:image/png;base64,") == 3
