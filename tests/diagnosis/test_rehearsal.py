"""What a step keeps, estimated from a few samples or from shapes alone, against what it really keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from chiasm.data.reader import Reader
from chiasm.diagnosis import rehearsal
from chiasm.diagnosis.rehearsal import rehearse
from chiasm.diagnosis.setting import Setting
from chiasm.experiment.assembly import build_model
from chiasm.experiment.recipe import Recipe, load_recipe
from tests.diagnosis.planted import chat, photo


def _kept(recipe: Recipe, size: int) -> int:
    """Bytes that autograd keeps for a batch, counted here in another way: over the graph's nodes."""
    model = build_model(recipe)
    batch, _ = Reader(recipe.data.train, model.processor, size, captions=recipe.data.captions).batch_at(0)
    assert batch is not None
    weights = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        losses = model.losses(batch)
    assert losses
    return sum(kept.values())


def _recipes(folder: Path) -> list[Recipe]:
    photo(1).save(folder / "1.png")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Soft patches."}]
    rows = [{"id": str(at), "image": "1.png", "conversations": turns} for at in range(40)]
    return [load_recipe("clip/scenes", ["data.train.count=400"]), load_recipe(chat(folder, rows))]


@pytest.mark.slow
@pytest.mark.parametrize("walked", [False, True])
def test_activations_of_a_large_batch_are_foretold(
    walked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if walked:
        monkeypatch.setattr(rehearsal, "MOST_PARAMETERS", 0)
    for recipe in _recipes(tmp_path):
        found = rehearse(Setting(recipe))
        assert found is not None
        assert found.tried == (not walked)
        padding = 1.35 if walked and recipe.name == "clip-scenes" else 1.0  # walked with it; see `_walk`
        assert found.activations(32) == pytest.approx(padding * _kept(recipe, 32), rel=0.25), recipe.name


def test_names_of_losses_and_tensors_without_gradient(tmp_path: Path) -> None:
    for recipe, name in zip(_recipes(tmp_path), ("contrastive", "next_token"), strict=True):
        found = rehearse(Setting(recipe))
        assert found is not None
        assert (found.losses, found.finite, found.dead) == ((name,), True, ())


def test_a_rehearsal_leaves_the_random_numbers_alone(tmp_path: Path) -> None:
    setting = Setting(_recipes(tmp_path)[0])
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    rehearse(setting)
    assert torch.equal(torch.rand(3), expected)
