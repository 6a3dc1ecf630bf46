"""A frozen tower's features are computed once, and a model that speaks learns from them what it would from pixels."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from chiasm.data.batch import ImageFeatures, Images
from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.image import Image
from chiasm.data.layouts.fixed import Fixed
from chiasm.data.sample import Sample, Text
from chiasm.data.transforms import Augment
from chiasm.errors import DataError, RecipeError
from chiasm.experiment.recipe import Recipe, load_recipe
from chiasm.experiment.run import Experiment
from chiasm.models import frozen, limber, llava_next
from chiasm.models.generative_features import CachedChatProcessor
from chiasm.nn.image_towers.vit import ViT
from chiasm.nn.patch_mask import PatchMask
from tests.models.generative_models import noise
from tests.models.test_frozen import built

QUIET = Console(file=io.StringIO())
RECIPE = """
name: told
data:
  train: {source: scenes, seed: 1, count: 12, objects: [1, 1], annotations: false}
  batch_size: 4
processor: {tokenizer: {learn: 300}}
model: {family: FAMILY, size: small}
training: {steps: 3, learning_rate: 1e-2, device: cpu}
"""


def told() -> list[Sample]:
    """One picture, several, none, and one that stands in two samples."""
    word = Text("red and blue", target=True)
    parts = (
        (noise(1), word),
        (noise(2), Text(" then "), noise(3), word),
        (word,),
        (noise(1), Text(" green", target=True)),
    )
    return [Sample(str(at), one) for at, one in enumerate(parts)]


@pytest.fixture(params=["limber", "frozen"])
def model(request: pytest.FixtureRequest) -> Any:
    found: Any = built(limber.SIZES["small"] if request.param == "limber" else frozen.SIZES["small"])
    found.vision.requires_grad_(False)
    return found


def test_batches_of_features_have_the_losses_of_batches_of_pixels(model: Any, tmp_path: Path) -> None:
    cached = CachedChatProcessor(model, tmp_path)
    cached.fill(told(), QUIET)
    batch = cached(told())
    assert batch.images is not None
    assert isinstance(batch.images, ImageFeatures)
    expected = model.losses(model.processor(told()))["next_token"]
    torch.testing.assert_close(model.losses(batch)["next_token"], expected)
    parts = [model.losses(part)["next_token"] * model.weight(part) for part in batch.split(3)]
    torch.testing.assert_close(sum(parts) / model.weight(batch), expected)


def test_each_picture_is_computed_once_for_its_tower(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    read = type(model).tower_features

    def counted(self: Any, images: Images) -> torch.Tensor:
        seen.append(len(images) if not isinstance(images, ImageFeatures) else 0)
        return read(self, images)

    monkeypatch.setattr(type(model), "tower_features", counted)
    for _ in range(2):
        CachedChatProcessor(model, tmp_path).fill(told(), QUIET)
    assert sum(seen) == 3
    with torch.no_grad():
        next(model.vision.parameters()).add_(1.0)
    CachedChatProcessor(model, tmp_path).fill(told(), QUIET)
    assert sum(seen) == 6, "another tower never meets old features"


@pytest.mark.parametrize(
    ("family", "frozen_part"), [("limber", ""), ("frozen", "training.parts={vision: {frozen: true}}")]
)
def test_a_run_on_features_is_the_run_on_pixels(
    family: str, frozen_part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.replace("FAMILY", family))
    given = [frozen_part] if frozen_part else []
    plain = _trained(load_recipe(file, given), tmp_path / "plain")
    seen: list[int] = []
    whole = ViT._embedded

    def counted(self: ViT, images: Images, mask: PatchMask | None = None) -> torch.Tensor:
        seen.append(len(images))
        return whole(self, images, mask)

    monkeypatch.setattr(ViT, "_embedded", counted)
    kept = _trained(load_recipe(file, [*given, f"data.features={tmp_path / 'features'}"]), tmp_path / "kept")
    assert sum(seen) == 12
    for name, tensor in plain.items():
        torch.testing.assert_close(kept[name], tensor, atol=1e-5, rtol=1e-4, msg=name)


def _trained(recipe: Recipe, folder: Path) -> dict[str, torch.Tensor]:
    experiment = Experiment(recipe, folder, console=QUIET)
    begun = {name: one.clone() for name, one in experiment.model.named_parameters() if name.startswith("connector")}
    assert experiment.train()
    state = experiment.model.state_dict()
    assert any(not torch.equal(state[name], one) for name, one in begun.items())
    return state


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.replace("FAMILY", "frozen"))
    with pytest.raises(RecipeError, match="keeps the outputs of frozen towers"):  # Frozen's own tower learns
        Experiment(load_recipe(file, [f"data.features={tmp_path / 'features'}"]), tmp_path / "run", console=QUIET)
    tiled = built(llava_next.SIZES["small"])
    assert isinstance(tiled, llava_next.LLaVANeXT)
    with pytest.raises(RecipeError, match="cut in tiles"):
        CachedChatProcessor(tiled, tmp_path)
    model = built(limber.SIZES["small"])
    assert isinstance(model, limber.LiMBeR)
    settings, own = model.processor.settings, model.processor.layout
    assert isinstance(own, Fixed)
    drawn = replace(own, transform=replace(own.transform, augment=Augment()))
    model.processor = ChatProcessor(model.processor.backend, replace(settings, layout=drawn))
    with pytest.raises(DataError, match="augmented pictures cannot be kept"):
        CachedChatProcessor(model, tmp_path)


def test_one_tower_read_elsewhere_or_shown_otherwise_has_features_of_its_own(tmp_path: Path) -> None:
    for layer, mean in ((-1, 0.5), (-2, 0.5), (-2, 0.4)):
        model = built(replace(limber.SIZES["small"], layer=layer))
        assert isinstance(model, limber.LiMBeR)
        settings, own = model.processor.settings, model.processor.layout
        assert isinstance(own, Fixed)
        shown = replace(own, transform=replace(own.transform, mean=(mean,) * 3))
        model.processor = ChatProcessor(model.processor.backend, replace(settings, layout=shown))
        cached = CachedChatProcessor(model, tmp_path)
        cached.fill(told(), QUIET)
        kept, pixels = cached(told()).images, model.processor(told()).images
        assert isinstance(kept, ImageFeatures)
        assert pixels is not None
        torch.testing.assert_close(kept.features, model.tower_features(pixels))


def test_a_picture_is_known_by_its_content(tmp_path: Path) -> None:
    model = built(limber.SIZES["small"])
    assert isinstance(model, limber.LiMBeR)
    cached = CachedChatProcessor(model, tmp_path)
    cached.fill([Sample("a", (noise(7),))], QUIET)
    again: Image = noise(7)
    batch = cached([Sample("b", (again, Text("red", target=True)))])
    assert batch.images is not None
    assert isinstance(batch.images, ImageFeatures)
    assert batch.images.features.shape == (1, *model.features_shape)
