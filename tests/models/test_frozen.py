"""What a language model that never learns is told about pictures: Frozen, LiMBeR and MAPL."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.image import Image
from chiasm.data.sample import Sample, Text
from chiasm.data.scenes.vocabulary import COLOURS, SHAPES
from chiasm.data.sources.scenes import Scenes
from chiasm.errors import RecipeError
from chiasm.experiment.entries import deep_merge
from chiasm.models import frozen, language, limber, llava, mapl
from chiasm.models.generative import GenerativeModel, VisionLanguageModel
from chiasm.models.model import ModelConfig
from chiasm.nn.connectors import linear, mapper, prefix
from chiasm.nn.decoders import llama
from chiasm.nn.image_towers import efficientnet_lite, naflex, resnet, vit
from tests.models.generative_models import noise
from tests.worlds import Patches

SHOWN = ("red", "blue", "green", "yellow", "circle", "cross")
DECODER = llama.Config(300, 64, 2, 4, 2, 128, 64, tied=True)
TOWER = vit.Config(32, 8, 64, 2, 2, 128, pool="mean", pre_norm=False, stem=(12, 24, 32))


def built(config: ModelConfig, texts: list[str] | None = None) -> VisionLanguageModel:
    texts = texts or [caption for sample in Patches() for caption in sample.captions]
    entries = deep_merge(config.processor_entries(), {"tokenizer": {"learn": 300}})
    torch.manual_seed(0)
    model = config.model()(config, ChatProcessor.from_recipe(entries, texts))
    assert isinstance(model, VisionLanguageModel)
    model.check()
    return model


def learn(model: GenerativeModel, samples: list[Sample], steps: int, rate: float) -> None:
    optimiser = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=rate)
    drawn = np.random.default_rng(0).integers(0, len(samples), (steps, 32))
    model.train()
    for row in drawn:
        loss = model.losses(model.processor([samples[at] for at in row]))["next_token"]
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()


@cache
def scenes() -> tuple[tuple[Image, str], ...]:
    """Pictures of one thing with its colour and shape in words, eight in all."""
    only = {name: float(name in SHOWN) for name in (*COLOURS, *SHAPES)}
    world = Scenes(900, seed=1, size=32, objects=(1, 1), frequencies=only, backgrounds=("plain",))
    told = []
    for sample in world:
        words = [word for word in sample.boxes[0].phrase.split() if word in SHOWN]
        if len(words) == 2:  # else it is a written word
            told.append((sample.image, " ".join(words)))
    return tuple(told)


def shown(image: Image, words: str) -> Sample:
    return Sample(words, (image, Text(f"a {words}", target=True)))


@pytest.mark.slow
def test_a_tower_learns_to_speak_to_a_language_model_that_never_changes() -> None:
    """The model first learns, from words alone, to make a sentence of what stands before it; then only the tower."""
    seen, asked = scenes()[:-100], scenes()[-100:]
    model = built(frozen.Config(TOWER, DECODER), [f"{words} a {words}" for _, words in seen])
    vlm = language.Language(language.Config(DECODER), model.processor)
    learn(vlm, [Sample("x", (Text(f"{words} "), Text(f"a {words}", target=True))) for _, words in seen], 130, 3e-3)
    model.language.load_state_dict(vlm.language.state_dict())
    before = {name: tensor.clone() for name, tensor in model.language.state_dict().items()}
    learn(model, [shown(*pair) for pair in seen], 110, 2e-3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.language.state_dict().items())

    own = model.log_likelihood([shown(*pair) for pair in asked]).mean()
    others = [image for image, _ in (*asked[1:], asked[0])]
    shuffled = model.log_likelihood(
        [shown(image, words) for image, (_, words) in zip(others, asked, strict=True)]
    ).mean()
    grey = Image(np.full((32, 32, 3), 128, np.uint8))
    blind = model.log_likelihood([shown(grey, words) for _, words in asked]).mean()
    assert own > -2.0  # eight things as likely as each other, and nothing else unsure, are worth -2.08
    assert own > shuffled + 0.7
    assert own > blind + 0.7


def test_gradients_reach_the_tower_through_a_language_model_that_takes_none() -> None:
    model = built(frozen.SIZES["small"]).train()
    assert not model.language.training
    torch.autograd.backward(model.losses(model.processor([shown(noise(1), "red and blue")]))["next_token"])
    assert isinstance(model, frozen.Frozen)
    assert all(one.grad is None for one in model.language.parameters())
    assert all(one.grad is not None and one.grad.any() for one in model.connector.parameters())
    tower = dict(model.vision.named_parameters())
    assert all(one.grad is not None and one.grad.any() for name, one in tower.items() if name.startswith("embed"))


def test_a_picture_is_two_slots_wherever_it_stands() -> None:
    """A prompt of several pictures and answers: each picture's features in its own place, in reading order."""
    model = built(frozen.SIZES["small"]).eval()
    first, second, third = (noise(seed) for seed in (1, 2, 3))
    shots = (first, Text(" red"), second, Text(" blue"), third, Text(""))
    prompt = model.processor.prompts([Sample("x", shots)])
    assert prompt.stream is not None
    image_token, red, blue = (model.processor.ids(word) for word in ("<image>", " red", " blue"))
    assert prompt.stream.ids_T.tolist() == [*image_token * 2, *red, *image_token * 2, *blue, *image_token * 2]
    with torch.inference_mode():
        x_TD = model.embedded(prompt).x_TD
        for at, image in ((0, first), (2 + len(red), second), (4 + len(red) + len(blue), third)):
            alone = model.embedded(model.processor.prompts([Sample("y", (image,))])).x_TD
            torch.testing.assert_close(x_TD[at : at + 2], alone, atol=1e-5, rtol=1e-5)
        exchanged = replace(Sample("x", shots), parts=(second, shots[1], first, *shots[3:]))
        assert not torch.allclose(model.embedded(model.processor.prompts([exchanged])).x_TD, x_TD)
    answered = model.generate([Sample("x", shots)], max_tokens=3)[0]
    assert answered.images == (first, second, third)


@pytest.mark.parametrize("config", [limber.SIZES["small"], mapl.SIZES["small"]], ids=["limber", "mapl"])
def test_only_the_map_learns(config: llava.Config) -> None:
    # A tower with batch statistics shows whether it is truly left alone.
    model = built(replace(config, vision=resnet.Config(64, 8, (1, 1, 1, 1), 4), class_token=False)).train()
    assert {name.split(".")[0] for name, one in model.named_parameters() if one.requires_grad} == {"connector"}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learn(model, [shown(noise(1), "red and blue"), shown(noise(2), "red")], 2, 1e-2)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all(name.startswith("connector.") for name in moved)


def test_the_maps_are_the_published_ones() -> None:
    with torch.device("meta"):
        for config, features, image_tokens, parameters in (
            (limber.SIZES["clip-rn50x16"], (144, 3_072), 144, 3_072 * 4_096 + 4_096),
            (mapl.SIZES["clip-l"], (257, 1_024), 32, 3_431_680),
            (frozen.SIZES["7b"], (1, 2_048), 2, (2_048 + 1) * 2 * 4_096),
        ):
            model = config.model()(config, None)  # type: ignore[arg-type]  # no shape depends on the processor
            assert isinstance(model, (llava.LLaVA, frozen.Frozen))
            assert (model.features_shape, config.image_tokens) == (features, image_tokens)
            assert sum(one.numel() for one in model.connector.parameters()) == parameters


def test_a_linear_map_leads_each_feature_to_its_slot() -> None:
    model = built(limber.SIZES["small"]).eval()
    assert isinstance(model, limber.LiMBeR)
    batch = model.processor.prompts([Sample("x", (noise(1),))])
    assert batch.images is not None
    with torch.inference_mode():
        grid_PD = model.vision.hidden_states(batch.images, -1)[0, 1:]  # without the class token
        assert isinstance(model.connector, nn.Linear)
        expected = grid_PD @ model.connector.weight.T + model.connector.bias
        torch.testing.assert_close(model.embedded(batch).x_TD, expected)


@pytest.mark.parametrize(
    ("tower", "pixels", "image_tokens"),
    [
        (efficientnet_lite.Config(), 224, 49),
        (efficientnet_lite.Config(image_size=100), 100, 16),
        (resnet.Config(96, 8, (1, 1, 1, 1), 4), 96, 9),
        (vit.Config(32, 8, 32, 2, 2, 64, pool="map"), 32, 16),
    ],
    ids=["lite0", "lite0 at 100", "resnet", "vit"],
)
def test_any_tower_with_a_grid_may_see(tower: vit.Config, pixels: int, image_tokens: int) -> None:
    config = llava.Config(tower, llama.SIZES["small"], linear.Config(), layer=-1)
    model = built(config)
    batch = model.processor([shown(noise(1, size=120), "red")])
    assert batch.images is not None
    assert batch.stream is not None
    assert batch.images.pixels.shape[-1] == pixels
    assert int(batch.stream.image_mask_T.sum()) == image_tokens
    torch.autograd.backward(model.losses(batch)["next_token"])
    learned = [(name, one.grad) for name, one in model.named_parameters() if one.requires_grad]
    assert [name for name, grad in learned if grad is None] == []


def test_what_does_not_fit_is_told() -> None:
    language_ = llama.SIZES["small"]
    with pytest.raises(RecipeError, match="'naflex' has no grid"):
        llava.Config(naflex.Config(16, 32, 1, 2, 64), language_).processor_entries()
    with pytest.raises(RecipeError, match="its last layer, -1, not -2"):
        built(llava.Config(efficientnet_lite.Config(), language_))
    with pytest.raises(RecipeError, match="layers from -4 to -1, not -5"):
        built(replace(llava.SIZES["small"], layer=-5))
    with pytest.raises(RecipeError, match="has no class token"):
        built(replace(mapl.SIZES["small"], vision=efficientnet_lite.Config()))
    model = built(frozen.SIZES["small"])
    other = replace(frozen.SIZES["small"], connector=prefix.Config(tokens=4))
    with pytest.raises(RecipeError, match=r"image_tokens 2, but Frozen is made for .*image_tokens 4"):
        frozen.Frozen(other, model.processor).check()
    few = replace(mapl.SIZES["small"], connector=mapper.Config(queries=3, width=64))
    with pytest.raises(RecipeError, match=r"image_tokens 2, but .* is made for .*image_tokens 3"):
        mapl.MAPL(few, model.processor).check()
