"""Adapters that are no weights: prompts, computed as transformers' layers do, saved, opened, gone on with, told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import chiasm
from chiasm.adaptation.adapted import Adaptation, adapt, merged
from chiasm.adaptation.adapters import lora, visual_prompts
from chiasm.adaptation.blend import blend
from chiasm.adaptation.tensors import tensors_of
from chiasm.cli import main
from chiasm.errors import CapabilityError, CheckpointError, RecipeError
from chiasm.models import folder as model_folder
from chiasm.models.clip import CLIP
from chiasm.nn.image_towers import vit
from chiasm.nn.recompute import recompute_layers
from chiasm.weights import transformers as foreign
from tests.adaptation.test_adapters import moved, saved
from tests.models.generative_models import small_llava
from tests.worlds import Patches, tiny_clip

PROMPTS = visual_prompts.Config(count=3)


def pictures() -> list[chiasm.Image]:
    return [sample.image for sample in Patches(5)]


def embedded(model: CLIP) -> Tensor:
    return model.embed_images(pictures())


def deep_clip() -> CLIP:
    """Two layers, so that the second is given prompts of its own."""
    clip = tiny_clip()
    assert isinstance(clip.config.vision, vit.Config)
    config = replace(clip.config, vision=replace(clip.config.vision, layers=2))
    torch.manual_seed(3)
    return CLIP(config, clip.processor)


def test_prompts_are_what_the_layers_of_transformers_make_of_them(tmp_path: Path) -> None:
    """Their layers, given [class, prompts, patches] as the paper writes it; the prompts' outcome is thrown away."""
    transformers = pytest.importorskip("transformers")
    ours = deep_clip()
    foreign.save(ours, tmp_path / "base")
    theirs = transformers.CLIPModel.from_pretrained(tmp_path / "base").eval()
    torch.manual_seed(0)
    model = adapt(ours, {"vision": PROMPTS})
    for part in (model.image_head, model.text):
        part.requires_grad_(False)
    moved(model)
    images = model.processor([sample.with_caption("x") for sample in Patches(5)]).images
    assert images is not None
    tower = theirs.vision_model
    with torch.no_grad():
        x_NPD = tower.pre_layrnorm(tower.embeddings(images.pixels))
        for at, layer in enumerate(tower.encoder.layers):
            prompts_NKD = model.get_parameter(f"vision.blocks.{at}.prompts").expand(len(x_NPD), -1, -1)
            found = layer(torch.cat([x_NPD[:, :1], prompts_NKD, x_NPD[:, 1:]], dim=1), attention_mask=None)
            found = found[0] if isinstance(found, tuple) else found
            x_NPD = torch.cat([found[:, :1], found[:, 4:]], dim=1)
        expected = theirs.visual_projection(tower.post_layernorm(x_NPD[:, 0]))
    before = embedded(deep_clip())
    assert float((embedded(model) - before).abs().max()) > 1e-3
    torch.testing.assert_close(embedded(model), expected / expected.norm(dim=1, keepdim=True), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pool", ["class", "map", "mean"])
def test_every_layer_and_pooling_sees_the_prompts_and_gives_none_away(pool: str) -> None:
    clip = tiny_clip()
    assert isinstance(clip.config.vision, vit.Config)
    torch.manual_seed(0)
    plain = CLIP(replace(clip.config, vision=replace(clip.config.vision, layers=3, pool=pool)), clip.processor)  # type: ignore[arg-type]
    images = plain.processor([sample.with_caption("x") for sample in Patches(2)]).images
    assert images is not None
    shapes = {layer: plain.vision.hidden_states(images, layer).shape for layer in (-1, -2)}
    model = moved(adapt(plain, {"vision": PROMPTS}))
    for layer, shape in shapes.items():
        assert model.vision.hidden_states(images, layer).shape == shape
    found = []
    for recomputing in (False, True):
        if recomputing:
            assert recompute_layers(model.vision) == 3
        model.zero_grad()
        torch.autograd.backward(model.train().vision(images).square().sum())
        found.append({name: one.grad for name, one in model.vision.named_parameters() if one.requires_grad})
    assert sorted(found[0]) == [f"blocks.{at}.prompts" for at in range(3)]
    for name, gradient in found[0].items():
        assert gradient is not None
        assert gradient.any(), name
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-5)


def test_a_checkpoint_holds_the_prompts_and_finds_its_base(tmp_path: Path) -> None:
    model_folder.save(deep_clip(), tmp_path / "base")
    model = moved(adapt(deep_clip(), {"vision": PROMPTS, "text": lora.Config(rank=2)}))
    folder = saved(model, tmp_path / "base", tmp_path / "run")
    stored = tensors_of(folder / "adapters/vision/prompts.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in stored.items()} == {
        f"vision.blocks.{at}.prompts": (3, 32) for at in range(2)
    }
    again = chiasm.load(folder)
    on_base = chiasm.load(tmp_path / "base", adapter=folder)
    for opened in (again, on_base):
        assert isinstance(opened, CLIP)
        torch.testing.assert_close(embedded(opened), embedded(model), atol=0, rtol=0)
        texts = ["red and green", "blue"]
        torch.testing.assert_close(opened.embed_texts(texts), model.embed_texts(texts), atol=0, rtol=0)
        assert isinstance(opened.adaptation, Adaptation)
        assert opened.adaptation.configs == {"vision": PROMPTS, "text": lora.Config(rank=2)}
    (folder / "adapters/vision/prompts.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"prompts\.safetensors cannot be read"):
        chiasm.load(folder)


def test_where_weights_are_wanted_it_says_that_there_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model_folder.save(deep_clip(), tmp_path / "base")
    model = adapt(deep_clip(), {"vision": PROMPTS})
    told = r"the adapter 'visual_prompts' in the part 'vision' cannot be merged into its weights; keep the run's folder"
    with pytest.raises(CapabilityError, match=told):
        merged(model)
    with pytest.raises(CapabilityError, match=told):
        blend(deep_clip(), model, 0.5)
    folder = saved(model, tmp_path / "base", tmp_path / "run")
    for kind in ("chiasm", "transformers"):
        assert main(["merge", str(folder), "--out", str(tmp_path / "out"), "--for", kind]) == 2
        assert "'visual_prompts' in the part 'vision' cannot be merged" in capsys.readouterr().err
    assert main(["merge", str(folder), "--out", str(tmp_path / "out"), "--for", "peft"]) == 2
    assert "peft has no such adapter as 'visual_prompts'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(RecipeError, match=r"adapters\.text: visual_prompts go into an image tower of the kind vit"):
        adapt(deep_clip(), {"text": PROMPTS})
    with pytest.raises(RecipeError, match="count is at least 1, not 0"):
        visual_prompts.Config(count=0)


def test_weights_with_lora_are_merged_before_they_are_blended(tmp_path: Path) -> None:
    base, tuned = deep_clip(), moved(adapt(deep_clip(), {"vision": lora.Config(rank=2)}))
    half = blend(base, tuned, 1.0)
    assert isinstance(half, CLIP)
    torch.testing.assert_close(embedded(half), embedded(tuned), atol=1e-5, rtol=1e-5)


def test_a_run_learns_prompts_and_goes_on_to_the_same_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "prompts.yaml"
    recipe.write_text(
        "name: prompts\ndata: {train: {source: scenes, seed: 9, count: 40, objects: [1, 2]}, batch_size: 4}\n"
        "model: {family: clip, size: small, vision: {layers: 2}}\n"
        "processor: {tokenizer: {learn: 300}, text: {context: 40}, image: {size: 64}}\n"
        "adapters: {vision: {adapter: visual_prompts, count: 2}}\n"
        "training: {steps: 4, learning_rate: 1e-2, checkpoint_every: 2, keep: 9}\n"
    )
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(["train", str(recipe), "--out", str(whole)]) == 0
    assert main(["train", str(recipe), "--out", str(cut)]) == 0
    (cut / "checkpoint").rename(cut / "gone")
    assert [place.name for place in (cut / "checkpoints").iterdir()] == ["step-000002"]
    assert main(["train", str(recipe), "--out", str(cut), "--resume"]) == 0
    told = "vision: visual_prompts, which cannot be merged into weights"
    assert told in (whole / "checkpoint/README.md").read_text()
    capsys.readouterr()
    assert main(["show", str(whole)]) == 0
    assert told in " ".join(capsys.readouterr().out.split())
    for file in ("model.safetensors", "adapters/vision/prompts.safetensors"):
        first, second = (tensors_of(run / "checkpoint" / file) for run in (whole, cut))
        assert all(torch.equal(first[name], second[name]) for name in first.keys() | second.keys())
    frozen = tensors_of(whole / "checkpoint/model.safetensors")
    assert not [name for name in frozen if name.startswith("vision.")]
    start = chiasm.load(whole / "base")
    learned = chiasm.load(whole / "checkpoint")
    for name, tensor in start.state_dict().items():
        if name.startswith("vision."):
            assert torch.equal(learned.state_dict()[name], tensor), name
    capsys.readouterr()
    next_recipe = tmp_path / "next.yaml"
    next_recipe.write_text(
        f"name: next\nstart: {{checkpoint: {whole}}}\ndata: {{train: {{source: scenes, count: 8}}, batch_size: 4}}\n"
        "training: {steps: 1, learning_rate: 1e-3}\n"
    )
    assert main(["train", str(next_recipe), "--out", str(tmp_path / "next")]) == 2
    assert "cannot be merged into its weights" in capsys.readouterr().err


def test_a_generative_model_looks_through_prompts_too() -> None:
    model = moved(adapt(small_llava(), {"vision": PROMPTS}))
    learned = [name for name, one in model.named_parameters() if one.requires_grad and name.startswith("vision.")]
    assert learned
    assert all(name.endswith(".prompts") for name in learned)
