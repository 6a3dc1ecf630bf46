"""Recipes of several stages, and of adapters: what is trained, kept, resumed and opened again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file

import chiasm
from chiasm.cli import main
from chiasm.errors import RecipeError, TrainingError
from chiasm.experiment.recipe import Recipe, Start, learned_by, load_recipe
from chiasm.experiment.run import Experiment
from chiasm.experiment.stages import Staged, experiment
from chiasm.models import folder as model_folder
from chiasm.training.loop import Loop
from tests.models.generative_models import small_llava

pytest.importorskip("peft", reason="pip install peft")

QUIET = Console(quiet=True)
FROZEN = {"vision": {"frozen": True}, "language": {"frozen": True}}


def write(file: Path, **entries: Any) -> Path:
    """A recipe on scenes, from the model in `base`, with these entries over it."""
    whole = {
        "name": "try",
        "start": {"checkpoint": str(file.parent / "base")},
        "data": {"train": {"source": "scenes", "seed": 1, "count": 40, "objects": [1, 2]}, "batch_size": 4},
        "training": {"steps": 3, "learning_rate": 1e-2, "device": "cpu", "log_every": 1, "schedule": "constant"},
        **entries,
    }
    file.write_text(yaml.safe_dump(whole))
    return file


@pytest.fixture
def place(tmp_path: Path) -> Path:
    model_folder.save(small_llava(template=""), tmp_path / "base")
    return tmp_path


def run(recipe: Recipe, folder: Path, *, resume: bool = False) -> Experiment:
    made = experiment(recipe, folder, console=QUIET, resume=resume)
    assert made.train()
    return made


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(chiasm.load(folder).state_dict())


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


STAGES = [
    {"name": "align", "training": {"steps": 2, "parts": FROZEN}},
    {
        "name": "tune",
        "training": {"learning_rate": 1e-3, "parts": {"vision": {"frozen": True}}},
        "data": {"batch_size": 5},
    },
]


ADAPTERS = {"language": {"adapter": "lora", "rank": 2, "targets": ["q", "v"]}}
NEW: dict[str, Any] = {
    "start": None,
    "model": {"family": "llava", "size": "small"},
    "processor": {"tokenizer": {"learn": 300}},
}


def test_two_stages_are_two_runs_with_start(place: Path) -> None:
    made = run(load_recipe(write(place / "staged.yaml", stages=STAGES)), place / "staged")
    assert isinstance(made, Staged)
    one = load_recipe(write(place / "one.yaml"), ["training.steps=2", f"training.parts={FROZEN}"])
    run(one, place / "one")
    two = write(place / "two.yaml", start={"checkpoint": str(place / "one")})
    parts = "training.parts={vision: {frozen: true}}"
    run(load_recipe(two, ["training.learning_rate=1e-3", parts, "data.batch_size=5"]), place / "two")
    assert same(weights(place / "staged"), weights(place / "two"))
    assert same(weights(place / "staged/stages/1-align"), weights(place / "one"))
    moved = {
        name
        for name, one in weights(place / "staged/stages/1-align").items()
        if not torch.equal(one, weights(place / "base")[name])
    }
    assert moved
    assert all(name.startswith("connector.") for name in moved)
    lines = [json.loads(line) for line in (place / "staged/metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["stage"]) for line in lines if "loss" in line] == [
        (1, "align"),
        (2, "align"),
        (3, "tune"),
        (4, "tune"),
        (5, "tune"),
    ]
    assert "align: 2 steps of 4 samples, then tune: 3 steps of 5 samples" in model_card_of(place / "staged", made)
    with pytest.raises(TrainingError, match="already holds a run"):
        experiment(made.recipe, place / "staged", console=QUIET)


def model_card_of(folder: Path, made: Experiment) -> str:
    from chiasm.experiment.run import model_card

    assert (folder / "checkpoint").is_symlink()
    return model_card(made.recipe, made.model)


@pytest.mark.parametrize("stop_at", [(0, 1), (1, 2)])
def test_a_stage_is_gone_on_with_in_its_midst(
    place: Path, stop_at: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(write(place / "staged.yaml", stages=STAGES))
    run(recipe, place / "whole")
    after = Loop._after_step

    def stopping(loop: Loop, losses: dict[str, float], norm: float, rate: float) -> None:
        after(loop, losses, norm, rate)
        loop._stop = loop.folder.name.startswith(str(stop_at[0] + 1)) and loop.progress.step == stop_at[1]

    monkeypatch.setattr(Loop, "_after_step", stopping)
    assert not experiment(recipe, place / "stopped", console=QUIET).train()
    assert not (place / "stopped/checkpoint").exists()
    monkeypatch.undo()
    run(recipe, place / "stopped", resume=True)
    assert same(weights(place / "stopped"), weights(place / "whole"))
    before = (place / "stopped/stages/1-align/checkpoint/model.safetensors").stat().st_mtime_ns
    done = experiment(recipe, place / "stopped", resume=True, console=QUIET)  # nothing is left to do
    assert done.train()
    assert (place / "stopped/stages/1-align/checkpoint/model.safetensors").stat().st_mtime_ns == before


def test_a_run_of_stages_goes_on_where_it_was_moved_to(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [STAGES[0], {**STAGES[1], "adapters": ADAPTERS}]
    recipe = load_recipe(write(place / "staged.yaml", stages=stages), ["training.checkpoint_every=2"])
    run(recipe, place / "whole")
    after = Loop._after_step

    def stopping(loop: Loop, losses: dict[str, float], norm: float, rate: float) -> None:
        after(loop, losses, norm, rate)
        loop._stop = loop.folder.name == "2-tune" and loop.progress.step == 2

    monkeypatch.setattr(Loop, "_after_step", stopping)
    assert not experiment(recipe, place / "here", console=QUIET).train()
    monkeypatch.undo()
    (place / "there").mkdir()
    (place / "here").rename(place / "there/moved")
    run(recipe, place / "there/moved", resume=True)
    assert same(weights(place / "there/moved"), weights(place / "whole"))
    kept = yaml.safe_load((place / "there/moved/stages/2-tune/recipe.yaml").read_text())
    assert kept["start"]["checkpoint"] == "../1-align"


def test_a_mistake_in_a_later_stage_is_told_before_the_first(place: Path) -> None:
    wrong = [STAGES[0], {"name": "tune", "adapters": {"language": {"adapter": "lora", "targets": ["qq"]}}}]
    with pytest.raises(RecipeError, match="no linear layer is called 'qq'"):
        experiment(load_recipe(write(place / "a.yaml", stages=wrong)), place / "run", console=QUIET)
    assert not (place / "run").exists()
    typo = [{"name": "tune", "training": {"stepz": 1}}]
    with pytest.raises(RecipeError, match=r"stages\.0 \(tune\): training\.stepz: there is no such key"):
        experiment(load_recipe(write(place / "a.yaml", stages=typo)), place / "run", console=QUIET)
    with pytest.raises(RecipeError, match="two have the same name"):
        load_recipe(write(place / "a.yaml", stages=[STAGES[0], STAGES[0]]))


def test_what_a_stage_takes_over(place: Path) -> None:
    """Adapters too, where it has none of its own; but what a model begins with is for the first stage alone."""
    stages = [STAGES[1], {**STAGES[1], "name": "whole", "adapters": {}}]
    taken = {"vision": {"checkpoint": str(place / "base")}}
    recipe = load_recipe(write(place / "a.yaml", **NEW, stages=stages, adapters=ADAPTERS, pretrained=taken))
    first, second = recipe.stage(0, None), recipe.stage(1, "one")
    assert (first.model, first.processor, first.pretrained) == (recipe.model, recipe.processor, recipe.pretrained)
    assert (second.model, second.processor, second.pretrained, second.start) == (None, {}, {}, Start("one"))
    assert (first.adapters, second.adapters) == (recipe.adapters, {})
    begun = load_recipe(write(place / "b.yaml", processor={"context": 64}, stages=stages)).stage(1, "one")
    assert (begun.processor, begun.start) == ({"context": 64}, Start("one"))


def test_how_a_stage_is_carried_out_may_change_in_its_course(place: Path) -> None:
    def learned(**training: Any) -> dict[str, Any]:
        stages = [{"name": "one", "training": {"steps": 1, **training}}]
        return learned_by(load_recipe(write(place / "a.yaml", stages=stages)).text())

    assert learned() == learned(keep=5, log_every=3, trackers=["tensorboard"])
    assert learned() != learned(learning_rate=0.5)


def test_a_mistake_does_not_cost_the_older_run(place: Path) -> None:
    file = write(place / "a.yaml", adapters=ADAPTERS)
    run(load_recipe(file), place / "run")
    before = weights(place / "run")
    for change in ("training.parts={connectr: {}}", "adapters.language.targets=[qq]", "adapters.language.adapter=lo"):
        with pytest.raises(RecipeError, match=r"did you mean|no linear layer"):
            experiment(load_recipe(file, [change]), place / "run", console=QUIET, overwrite=True)
    lost = "adapters.language={adapter: other, kind: LoHa, settings: {r: 0}}"
    with pytest.raises(RecipeError, match=r"adapters\.language: peft refuses"):
        experiment(load_recipe(file, [lost]), place / "run", console=QUIET, overwrite=True)
    assert same(weights(place / "run"), before)


def test_a_run_with_adapters_keeps_them_alone_and_goes_on_to_the_same_bits(place: Path) -> None:
    recipe = load_recipe(
        write(place / "lora.yaml", adapters=ADAPTERS),
        [
            "training.steps=4",
            "training.checkpoint_every=2",
            "training.keep=9",
            "training.parts={vision: {frozen: true}}",
        ],
    )
    whole = run(recipe, place / "whole")
    shutil.copytree(place / "whole", place / "again")
    shutil.rmtree(place / "again/checkpoint")
    (place / "again/recipe.yaml").write_text((place / "whole/recipe.yaml").read_text())
    run(recipe, place / "again", resume=True)
    assert same(weights(place / "again"), weights(place / "whole"))
    step = place / "whole/checkpoints/step-000002"
    full = (place / "base/model.safetensors").stat().st_size
    small = sum(file.stat().st_size for file in step.rglob("*.safetensors"))
    assert small < 0.3 * full  # optimiser state too
    kept = load_file(step / "model.safetensors")
    assert kept
    assert all(name.startswith("connector.") for name in kept)
    lines = (place / "whole/metrics.jsonl").read_text()
    dead = [json.loads(line)["without_gradient"] for line in lines.splitlines() if "without_gradient" in line]
    assert not dead  # adapters whose second factor is still zero are not taken for a mistake
    assert whole.model.adaptation is not None
    finished = experiment(recipe, place / "whole", resume=True, console=QUIET)
    assert finished.finished
    assert same(dict(finished.model.state_dict()), weights(place / "whole"))


def test_stages_with_adapters_begin_from_what_was_merged(place: Path) -> None:
    stages = [
        {"name": "lora", "adapters": ADAPTERS, "training": {"steps": 2}},
        {"name": "dora", "adapters": {"vision": {"adapter": "lora", "dora": True}}, "training": {"steps": 1}},
    ]
    made = run(load_recipe(write(place / "a.yaml", stages=stages)), place / "run")
    found = chiasm.load(place / "run")
    assert same(dict(found.state_dict()), dict(made.model.state_dict()))
    assert found.adaptation is not None
    (place / "run").rename(place / "elsewhere")  # links and bases are relative
    assert same(weights(place / "elsewhere"), dict(found.state_dict()))


def test_a_new_model_with_adapters_keeps_its_base(place: Path) -> None:
    run(load_recipe(write(place / "new.yaml", adapters=ADAPTERS, **NEW)), place / "run")
    assert same(weights(place / "run"), dict(chiasm.load(place / "run").state_dict()))
    base, now = weights(place / "run/base"), weights(place / "run")
    frozen = [name for name in base if name.startswith("language.") and ".base_layer" not in name and name in now]
    assert frozen
    assert all(torch.equal(base[name], now[name]) for name in frozen)


def test_frozen_and_adapted_do_not_go_together(place: Path) -> None:
    file = write(place / "a.yaml", adapters=ADAPTERS)
    with pytest.raises(RecipeError, match=r"leave training\.parts\.language\.frozen out"):
        load_recipe(file, ["training.parts={language: {frozen: true}}"])
    inner = write(place / "b.yaml", adapters={"language.blocks": ADAPTERS["language"]})
    with pytest.raises(RecipeError, match=r"except them: training\.parts: \{language\.blocks: \{\}\}"):
        load_recipe(inner, ["training.parts={language: {frozen: true}}"])
    excepted = load_recipe(inner, ["training.parts={language: {frozen: true}, language.blocks: {}}"])
    made = run(excepted, place / "excepted")
    learns = {name.split(".lora_")[0] for name, one in made.model.named_parameters() if one.requires_grad}
    assert {name for name in learns if name.startswith("language.")} == {
        f"language.blocks.{at}.attention.{layer}" for at in range(4) for layer in "qv"
    }
    with pytest.raises(RecipeError, match=r"goes neither with training\.ema"):
        load_recipe(file, ["adapters.language.quantise=int8", "training.ema=0.9"])
    with pytest.raises(RecipeError, match="either batch_size, in samples, or batch_tokens"):
        load_recipe(file, ["data.batch_tokens=100"])


def test_the_command_trains_and_merges(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(place / "a.yaml", adapters=ADAPTERS, stages=[{"name": "only", "training": {"steps": 1}}])
    assert main(["train", str(file), "--out", str(place / "run"), "data.batch_size=0", "data.batch_tokens=200"]) == 0
    assert "stage 1 of 1, only: 1 steps" in capsys.readouterr().out
    assert main(["merge", str(place / "run"), "--out", str(place / "merged")]) == 0
    merged = chiasm.load(place / "merged")
    assert merged.adaptation is None
    assert merged.state_dict().keys() == weights(place / "base").keys()
    assert main(["merge", str(place / "run"), "--out", str(place / "merged")]) == 2
    assert "already holds" in capsys.readouterr().err
    assert main(["merge", str(place / "base"), "--out", str(place / "none")]) == 2
    assert "has no adapters" in capsys.readouterr().err
