"""Training that begins from a trained model: its weights and processor are taken over, and what may change does."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from rich.console import Console

import chiasm
from chiasm.adaptation.adapted import merged
from chiasm.data.source import Source
from chiasm.errors import CheckpointError, ChiasmError, RecipeError, TrainingError
from chiasm.experiment.assembly import build_model
from chiasm.experiment.recipe import Recipe, load_recipe
from chiasm.experiment.run import Experiment
from chiasm.models import clip, folder
from chiasm.models.dual_encoder import DualEncoder
from chiasm.weights import transformers as adapter
from tests.weights import tiny
from tests.worlds import tiny_clip

QUIET = Console(file=io.StringIO())


def _recipe(where: Path, **changes: Any) -> Recipe:
    entries: dict[str, Any] = {
        "name": "further",
        "data": {"train": {"source": "scenes", "count": 32}, "batch_size": 8},
        "start": {"checkpoint": str(where / "start")},
        "training": {"steps": 2, "checkpoint_every": 1, "log_every": 1},
    }
    (where / "recipe.yaml").write_text(yaml.safe_dump(entries | changes))
    return load_recipe(where / "recipe.yaml")


def _start(where: Path, **config: Any) -> clip.CLIP:
    model = tiny_clip(3)
    folder.save(model, where / "start")
    return model


def test_the_model_and_its_processor_are_taken_over(tmp_path: Path) -> None:
    trained = _start(tmp_path)
    model = build_model(_recipe(tmp_path))
    assert isinstance(model, clip.CLIP)
    assert all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert model.processor.image == trained.processor.image
    assert model.processor.tokenizer.backend.to_str() == trained.processor.tokenizer.backend.to_str()


def test_a_run_can_begin_where_another_ended(tmp_path: Path) -> None:
    _start(tmp_path)
    assert Experiment(_recipe(tmp_path), tmp_path / "one", console=QUIET).train()
    first = chiasm.load(tmp_path / "one")
    recipe = _recipe(tmp_path, start={"checkpoint": str(tmp_path / "one")})
    again = Experiment(recipe, tmp_path / "two", console=QUIET)
    assert all(torch.equal(one, first.state_dict()[name]) for name, one in again.model.state_dict().items())
    assert again.train()
    moved = chiasm.load(tmp_path / "two")
    assert not torch.equal(moved.state_dict()["image_head.weight"], first.state_dict()["image_head.weight"])
    card = (tmp_path / "two" / "checkpoint" / "README.md").read_text()
    assert f"from `{tmp_path / 'one'}`" in card
    assert load_recipe(tmp_path / "two" / "recipe.yaml") == recipe


def test_a_foreign_checkpoint_is_a_start_too(tmp_path: Path) -> None:
    tiny.clip_model().save_pretrained(tmp_path / "start")
    tiny.clip_tokenizer(20).save_pretrained(tmp_path / "start")
    pixels = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessorPil(**pixels).save_pretrained(tmp_path / "start")
    trained = adapter.load(tmp_path / "start")
    assert Experiment(_recipe(tmp_path), tmp_path / "run", console=QUIET).train()
    made = chiasm.load(tmp_path / "run")
    assert isinstance(made, DualEncoder)
    assert made.config == trained.config
    assert not torch.equal(made.state_dict()["image_head.weight"], trained.state_dict()["image_head.weight"])


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    _start(tmp_path)
    recipe = _recipe(tmp_path)
    whole = Experiment(recipe, tmp_path / "whole", console=QUIET)
    assert whole.train()
    part = Experiment(recipe, tmp_path / "part", console=QUIET)
    part.loop.monitor.show = lambda *_: part.loop._on_signal()  # type: ignore[method-assign]  # stops after a step
    assert not part.train()
    resumed = Experiment(recipe, tmp_path / "part", resume=True, console=QUIET)
    assert resumed.train()
    assert all(torch.equal(one, whole.model.state_dict()[name]) for name, one in resumed.model.state_dict().items())


def test_augmentation_and_dropout_may_change(tmp_path: Path) -> None:
    trained = _start(tmp_path)
    changes = {
        "start": {"checkpoint": str(tmp_path / "start"), "model": {"image_dropout": 0.5}},
        "processor": {"image": {"augment": {"flip": 0.5}}},
    }
    model = build_model(_recipe(tmp_path, **changes))
    assert isinstance(model, clip.CLIP)
    assert (model.config.image_dropout, model.image_dropout.p) == (0.5, 0.5)
    assert model.processor.image.augment is not None
    assert model.processor.image.augment.flip == 0.5
    assert model.processor.image.mean == trained.processor.image.mean
    assert torch.equal(model.image_head.weight, trained.image_head.weight)


def test_what_is_learned_does_not_hang_on_what_was_drawn_before(tmp_path: Path) -> None:
    """Such as by the stage before, which a run that goes on between the two never trains."""
    _start(tmp_path)
    dropping = {"checkpoint": str(tmp_path / "start"), "model": {"image_dropout": 0.5}}
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        run = Experiment(_recipe(tmp_path, start=dropping), tmp_path / str(seed), console=QUIET)
        assert run.train()
        found.append(run.model.state_dict())
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        ({"start": {"checkpoint": "nowhere"}}, CheckpointError, "there is no folder nowhere"),
        ({"start": {"checkpoint": "START", "model": {"width": 8}}}, CheckpointError, "misshapen: image_head.weight"),
        ({"start": {"checkpoint": "START", "model": {"widht": 8}}}, RecipeError, "did you mean 'width'"),
        ({"start": {"checkpoint": "START", "model": {"family": "siglip"}}}, RecipeError, "which stays"),
        (
            {"processor": {"image": {"size": 24}}},
            RecipeError,
            "processor.image.size is 24, but the image tower sees 16",
        ),
        ({"processor": {"image": {"sizes": 16}}}, RecipeError, "did you mean 'size'"),
        (
            {"processor": {"tokenizer": {"learn": 300}}},
            RecipeError,
            "processor.tokenizer: a trained model keeps its own",
        ),
        ({"pretrained": {"vision": "efficientnet_lite0"}}, RecipeError, "a model from a start has its own"),
        ({"model": {"family": "clip", "size": "small"}}, RecipeError, "either model, for a new one, or start"),
        ({"start": None}, RecipeError, "either model, for a new one, or start"),
    ],
)
def test_what_cannot_be_is_told_before_a_folder_is_touched(
    changes: dict[str, Any], kind: type[ChiasmError], told: str, tmp_path: Path
) -> None:
    _start(tmp_path)
    if (changes.get("start") or {}).get("checkpoint") == "START":
        changes["start"]["checkpoint"] = str(tmp_path / "start")
    with pytest.raises(kind, match=told.replace(".", r"\.")):
        Experiment(_recipe(tmp_path, **changes), tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_remove_the_model_that_it_begins_from(tmp_path: Path) -> None:
    _start(tmp_path)
    assert Experiment(_recipe(tmp_path), tmp_path / "run", console=QUIET).train()
    onto_itself = _recipe(tmp_path, start={"checkpoint": str(tmp_path / "run")})
    with pytest.raises(TrainingError, match="holds the model to start from"):
        Experiment(onto_itself, tmp_path / "run", overwrite=True, console=QUIET)
    assert chiasm.load(tmp_path / "run") is not None


@pytest.mark.parametrize(("frozen", "trains"), [("vision", "text"), ("text", "vision")])
def test_one_locked_tower_is_computed_once_and_the_other_learns(frozen: str, trains: str, tmp_path: Path) -> None:
    trained = _start(tmp_path)
    data = {"train": {"source": "scenes", "count": 32}, "batch_size": 8}
    plain = {"training": {"steps": 2, "parts": {frozen: {"frozen": True}}}}
    without = Experiment(_recipe(tmp_path, data=data, **plain), tmp_path / "plain", console=QUIET)
    data["features"] = str(tmp_path / "features")
    kept = Experiment(_recipe(tmp_path, data=data, **plain), tmp_path / "kept", console=QUIET)
    files = sorted(
        one.name.split("-")[0]
        for one in (tmp_path / "features").iterdir()
        if (one / "features.npy").stat().st_size > 128
    )
    assert files == ["images" if frozen == "vision" else "texts"]
    assert without.train()
    assert kept.train()
    for name, tensor in kept.model.state_dict().items():
        torch.testing.assert_close(tensor, without.model.state_dict()[name], atol=1e-5, rtol=1e-4)
        if name.startswith(f"{frozen}."):
            assert torch.equal(tensor, trained.state_dict()[name])
    moved = [name for name, one in kept.model.state_dict().items() if not torch.equal(one, trained.state_dict()[name])]
    assert any(name.startswith(f"{trains}.") for name in moved)


def test_sources_of_parts_and_prompts_are_written_back() -> None:
    from chiasm.config import dump, parse

    entries = {
        "source": "prompts",
        "of": {"source": "part", "share": 0.5, "of": {"source": "scenes", "count": 4}},
        "words": {"a": "b"},
    }
    source = parse(Source, entries)  # type: ignore[type-abstract]  # a choice of the room is built
    assert parse(Source, dump(source)) == source  # type: ignore[type-abstract]  # likewise


TAKING: dict[str, Any] = {
    "start": None,
    "processor": {"tokenizer": {"learn": 320}, "text": {"context": 16}, "image": {"size": 16}},
    "model": {
        "family": "clip",
        "vision": {"tower": "vit", "image_size": 16, "patch": 8, "width": 32, "layers": 1, "heads": 2, "mlp_width": 64},
        "text": {
            "tower": "transformer",
            "vocabulary": 320,
            "context": 16,
            "width": 16,
            "layers": 1,
            "heads": 2,
            "mlp_width": 8,
        },
        "width": 24,
    },
}


def test_a_part_of_a_trained_model_begins_a_new_one(tmp_path: Path) -> None:
    trained = _start(tmp_path)
    taken = {"vision": {"checkpoint": str(tmp_path / "start"), "part": "vision"}}
    recipe = _recipe(tmp_path, **TAKING, pretrained=taken)
    model, fresh = build_model(recipe), build_model(_recipe(tmp_path, **TAKING))
    state, own, before = trained.state_dict(), model.state_dict(), fresh.state_dict()
    for name, tensor in own.items():
        if name.startswith("vision."):
            assert torch.equal(tensor, state[name])
        else:
            assert torch.equal(tensor, before[name]), "the rest begins as without"
    assert not torch.equal(own["vision.position"], before["vision.position"])
    assert load_recipe(_written(tmp_path, recipe)) == recipe


def test_a_part_of_a_run_with_adapters_is_taken_with_what_they_learned(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="pip install peft")
    trained = _start(tmp_path)
    run = Experiment(_recipe(tmp_path, adapters={"vision": {"adapter": "lora"}}), tmp_path / "lora", console=QUIET)
    assert run.train()
    expected = merged(chiasm.load(tmp_path / "lora")).get_submodule("vision").state_dict()
    assert not torch.equal(expected["blocks.0.mlp.up.weight"], trained.vision.state_dict()["blocks.0.mlp.up.weight"])
    model = build_model(_recipe(tmp_path, **TAKING, pretrained={"vision": {"checkpoint": str(tmp_path / "lora")}}))
    found = model.get_submodule("vision").state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


@pytest.mark.parametrize(
    ("into", "part", "kind", "told"),
    [
        ("vision", "visoin", RecipeError, "has no part 'visoin'; did you mean 'vision'?"),
        ("visoin", "vision", RecipeError, "the model has no part 'visoin'; did you mean 'vision'?"),
        ("text", "", CheckpointError, "pretrained.text: START does not fit"),
    ],
)
def test_a_part_that_does_not_fit_is_told(
    into: str, part: str, kind: type[ChiasmError], told: str, tmp_path: Path
) -> None:
    _start(tmp_path)
    taken = {into: {"checkpoint": str(tmp_path / "start"), "part": part}}
    with pytest.raises(kind) as error:
        build_model(_recipe(tmp_path, **TAKING, pretrained=taken))
    assert told.replace("START", str(tmp_path / "start")) in str(error.value)


def _written(where: Path, recipe: Recipe) -> Path:
    (where / "written.yaml").write_text(recipe.text())
    return where / "written.yaml"
