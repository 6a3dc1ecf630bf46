"""Doctor on what is trained in stages, by adapters, in batches of tokens, and on videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chiasm.adaptation.adapted import adapt
from chiasm.data.image import Image
from chiasm.data.reader import Reader
from chiasm.data.sample import Sample, Text, Video
from chiasm.diagnosis.rehearsal import rehearse
from chiasm.diagnosis.seen import look
from chiasm.diagnosis.setting import Setting
from chiasm.experiment.assembly import build_model
from chiasm.experiment.recipe import Recipe, load_recipe
from tests.diagnosis.planted import Listed, chat, diagnosed, jpeg, of, photo
from tests.diagnosis.test_rehearsal import _kept

pytest.importorskip("peft", reason="pip install peft")

STAGES = """
stages:
  - {name: align, training: {parts: {vision: {frozen: true}, language: {frozen: true}}}}
  - {name: tune, adapters: {language: {adapter: lora, rank: 4, targets: [q, v]}, vision: {adapter: lora, rank: 2}}}
"""


def conversations(folder: Path, words: int = 2) -> Path:
    (folder / "LICENSE").write_text("CC0")
    photo(1).save(folder / "1.png")
    rows: list[dict[str, Any]] = []
    for at in range(20):
        said = "patch " * (words if at == 3 else 2)
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": f"{said}{at}."}]
        rows.append({"id": str(at), "image": "1.png", "conversations": turns})
    return chat(folder, rows)


def test_each_stage_is_looked_at_and_its_data_once(tmp_path: Path) -> None:
    file = conversations(tmp_path)
    file.write_text(file.read_text() + STAGES)
    found = diagnosed(file)
    assert [(one.name, one.read) for one in found.read] == [("training", 20)]
    align, tune = of(found, "step")
    assert align.title.startswith("stage align: a step takes about")
    assert tune.title.startswith("stage tune: a step takes about")
    model = build_model(load_recipe(file))
    connector = sum(one.numel() for one in model.get_submodule("connector").parameters())
    assert align.figures["optimiser"] == 8 * connector == 2 * align.figures["gradients"]
    adapt(model, load_recipe(file).stage(1, None).adapters)
    learned = sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert learned > connector
    assert tune.figures["optimiser"] == 8 * learned
    assert f"{learned:,} of " in tune.why
    assert tune.figures["weights"] == 4 * sum(one.numel() for one in model.parameters())
    small = next(one for one in of(found, "disk") if one.title.startswith("stage tune"))
    assert small.figures["needed"] < 0.5 * tune.figures["weights"]
    assert not [one.title for one in of(found, "budget") if one.title.startswith("stage")], "it is true of both"


def test_a_mistake_in_one_stage_is_told_of_it(tmp_path: Path) -> None:
    file = conversations(tmp_path)
    wrong = "  - {name: late, data: {batch_size: 50}, adapters: {language: {adapter: lora, targets: [qq]}}}\n"
    file.write_text(file.read_text() + STAGES + wrong)
    found = diagnosed(file)
    errors = {one.title for one in found.of("error")}
    assert "stage late: data.batch_size is 50, but there are 20 training samples" in errors
    assert any(one.startswith("stage late: the model cannot be built: adapters.language.targets: no") for one in errors)
    assert len(errors) == 2


def test_samples_longer_than_a_batch_are_named_and_memory_is_by_tokens(tmp_path: Path) -> None:
    file = conversations(tmp_path, words=20)
    by_tokens = ("data.batch_size=0", "data.batch_tokens=50")
    found = diagnosed(file, *by_tokens)
    (long,) = [one for one in of(found, "budget") if one.severity == "error"]
    assert long.title == "samples that alone need more than a batch holds, 50 tokens"
    assert (long.count, long.of, [row.name for row in long.rows]) == (1, 20, ["training 3 (3/3)"])
    allowed = of(diagnosed(file, *by_tokens, "data.max_skipped=0.1"), "budget")
    assert allowed[0].severity == "warning"
    assert "for 50 tokens at once" in of(found, "step")[0].why
    tried = rehearse(Setting(load_recipe(file, ["data.batch_size=0", "data.batch_tokens=900"])))
    assert tried is not None
    recipe = load_recipe(file)
    assert tried.activations(_first(recipe, 16)) == pytest.approx(_kept(recipe, 16), rel=0.25)


def _first(recipe: Recipe, size: int) -> int:
    """Tokens of the first batch, as the loop gets it."""
    batch, _ = Reader(recipe.data.train, build_model(recipe).processor, size, captions="keep").batch_at(0)
    assert batch is not None
    assert batch.stream is not None
    return len(batch.stream.ids_T)


def test_frames_of_videos_are_read(tmp_path: Path) -> None:
    frames = [Image(jpeg(photo(at))) for at in range(3)]
    broken = [*frames[:2], Image(jpeg(photo(9, 400, 300))[:900])]
    word = Text("a word", target=True)
    samples = tuple(
        Sample(str(at), (Video(tuple(some), (0.0, 1.0, 2.0)), word)) for at, some in enumerate((frames, broken))
    )
    whole, cut = (look("training", Listed(samples), at, None) for at in range(2))
    assert whole.trouble is None
    assert whole.decoded == (), "neighbouring frames are no near copies"
    assert cut.trouble is not None
    assert cut.trouble.kind == "broken"
    assert cut.trouble.reason.startswith("frame 2 of video 0: ")
