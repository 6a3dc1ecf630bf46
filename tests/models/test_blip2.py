"""BLIP-2's second stage and MiniGPT-4: verbs, published sizes, tokens a picture, and what a first stage hands on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from rich.console import Console

import chiasm
from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.layouts.fixed import Fixed
from chiasm.data.processor import PairProcessor
from chiasm.data.sample import Sample, Text
from chiasm.errors import CheckpointError, DataError, RecipeError, TrainingError
from chiasm.experiment.assembly import build_model
from chiasm.experiment.recipe import Recipe, load_recipe
from chiasm.experiment.run import Experiment
from chiasm.models import blip2, blip2_stage1, folder, minigpt4
from chiasm.models.blip2 import BLIP2
from chiasm.models.caption_scores import ScoreBy
from chiasm.models.model import Model
from chiasm.nn.connectors import concatenated
from chiasm.nn.connectors.q_former import QFormer
from chiasm.nn.decoders import opt
from tests.models.generative_models import TEXTS, noise
from tests.worlds import Patches

SMALL = {
    "blip2": blip2.SIZES["small"],
    "minigpt4": minigpt4.SIZES["small"],
    "minigpt-v2": minigpt4.SIZES["small-v2"],
}
QUESTION = "What colour is the ball?"


def small(name: str) -> BLIP2:
    """Random weights, larger than at the beginning, so that answers differ between pictures and questions."""
    config = SMALL[name]
    kind: Any = config.model()
    torch.manual_seed(0)
    model: BLIP2 = kind(config, ChatProcessor.from_recipe({**config.processor_entries(), "tokenizer": LEARN}, TOLD))
    model.check()
    with torch.no_grad():
        for one in model.parameters():
            one.mul_(2.0)
        model.state_dict()["connector.map.weight"].mul_(10.0)
    return model.eval()


LEARN = {"learn": 300}
TOLD = [*(caption for sample in Patches() for caption in sample.captions), *TEXTS]


@pytest.mark.parametrize("name", SMALL)
def test_every_verb_works_and_agrees_with_the_others(name: str) -> None:
    model, images = small(name), [noise(1), *(sample.image for sample in Patches(8))]
    asked = [Sample(str(at), (image, Text(QUESTION, role="user"))) for at, image in enumerate(images)]
    together = model.generate(asked, max_tokens=8)
    said = [one.texts[-1].text for one in together]
    assert len(set(said)) > 1, "answers depend on the picture"
    assert "".join(model.stream(asked[0], max_tokens=8)) == said[0]
    assert (
        model.answers(Sample("a", (images[0],)), [asked[0].texts, (Text("Why?", role="user"),)], max_tokens=8)[0]
        == said[0]
    )
    texts = ["red and blue", "a dog"]
    samples = [Sample("x", (images[0], Text(text, target=True))) for text in texts]
    tokens = torch.tensor([sum(model.processor.tokens(one)[1]) for one in samples])
    found = model.score(images, texts)
    torch.testing.assert_close(found[0], model.log_likelihood(samples) / tokens, atol=1e-4, rtol=1e-4)
    ways: tuple[ScoreBy, ...] = ("gain", "yes")
    for by in ways:
        scores = model.score(images, texts, by=by)
        assert scores.shape == (len(images), 2)
        assert (scores[0] - scores[1]).abs().max() > 1e-4


def test_words_with_roles_are_asked_as_in_the_papers() -> None:
    told = (Text(QUESTION, role="user"), Text("Red.", role="assistant", target=True))
    sample = Sample("a", (noise(1), *told))
    rendered = {name: small(name).processor.render(sample).text for name in SMALL}
    image_tokens = {name: config.image_tokens for name, config in SMALL.items()}
    assert image_tokens == {"blip2": 8, "minigpt4": 8, "minigpt-v2": 4}
    end = "<|endoftext|>"
    pictures = {name: "<image>" * count for name, count in image_tokens.items()}
    assert rendered["blip2"] == f"{pictures['blip2']}Question: {QUESTION} Answer: Red.{end}"
    assert rendered["minigpt4"] == (f"###Human: <Img>{pictures['minigpt4']}</Img> {QUESTION} ###Assistant: Red.{end}")
    assert rendered["minigpt-v2"] == f"[INST] <Img>{pictures['minigpt-v2']}</Img> {QUESTION} [/INST] Red.{end}"
    again = replace(sample, parts=(*sample.parts, Text("Sure?", role="user")))
    assert small("blip2").processor.render(again, answer=True).text.endswith("Answer: Red. Question: Sure? Answer:")


# --- sizes


@pytest.mark.parametrize(("size", "width", "layers"), [("opt-2.7b", 2560, 32), ("opt-6.7b", 4096, 32)])
def test_blip_2_has_the_size_of_the_same_model_in_transformers(size: str, width: int, layers: int) -> None:
    """Salesforce/blip2-opt-2.7b and -6.7b."""
    text = transformers.OPTConfig(
        vocab_size=50_304,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=32,
        ffn_dim=4 * width,
        word_embed_proj_dim=width,
    )
    with torch.device("meta"):
        theirs = transformers.Blip2ForConditionalGeneration(transformers.Blip2Config(text_config=text))
        former = QFormer(1408, blip2.SIZES["opt-2.7b"].connector)  # type: ignore[arg-type]  # it is a Q-Former's
    assert blip2.SIZES[size].parameters() == sum(parameter.numel() for parameter in theirs.parameters())
    assert blip2.SIZES[size].image_tokens == theirs.config.num_query_tokens == 32
    # What stage 2 trains: table 2 of the paper counts 104M to 108M, with the map into the language model.
    learned = sum(parameter.numel() for parameter in former.parameters()) + 769 * width
    assert 104e6 < learned < 109e6


def test_no_size_goes_unchecked() -> None:
    assert blip2.SIZES.keys() == {"opt-2.7b", "opt-6.7b", "small"}
    assert blip2_stage1.SIZES.keys() == {"vit-g", "small"}
    assert minigpt4.SIZES.keys() == {"v1-7b", "v1-13b", "v2-7b", "small", "small-v2"}


@pytest.mark.parametrize("size", ["125m", "1.3b", "2.7b", "6.7b", "13b", "30b", "66b"])
def test_opt_has_the_size_of_the_same_model_in_transformers(size: str) -> None:
    """facebook/opt-*; the names say about how many parameters there are."""
    config = opt.SIZES[size]
    with torch.device("meta"):
        ours = sum(parameter.numel() for parameter in config.build().parameters())
        theirs = transformers.OPTForCausalLM(
            transformers.OPTConfig(
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                ffn_dim=config.mlp_width,
                word_embed_proj_dim=config.width,
            )
        )
    assert ours == sum(parameter.numel() for parameter in theirs.parameters())
    assert ours == pytest.approx(float(size[:-1]) * {"m": 1e6, "b": 1e9}[size[-1]], rel=0.02)


def test_minigpt_4_takes_32_tokens_and_version_2_takes_256() -> None:
    for size, image_tokens, learned in (
        ("v1-7b", 32, (768 + 1) * 4096),
        ("v1-13b", 32, (768 + 1) * 5120),
        ("v2-7b", 256, (4 * 1408 + 1) * 4096),
    ):
        config = minigpt4.SIZES[size]
        assert config.image_tokens == image_tokens
        with torch.device("meta"):
            built = config.connector.build(config.vision.width, {"v1-13b": 5120}.get(size, 4096))
        state = built.state_dict()
        assert state["map.weight"].numel() + state["map.bias"].numel() == learned
    assert minigpt4.SIZES["v2-7b"].vision.image_size == 448


# --- MiniGPT-v2


def test_four_neighbours_stand_behind_each_other_in_a_slot() -> None:
    config = concatenated.Config(4)
    connector: Any = config.build(3, 5)
    x_NPF = torch.randn(2, 8, 3)
    weight_D4F = connector.map.weight.unflatten(1, (4, 3))
    for image_token in range(config.image_tokens(8)):
        four = x_NPF[:, 4 * image_token : 4 * image_token + 4]
        expected = torch.einsum("nif,dif->nd", four, weight_D4F) + connector.map.bias
        torch.testing.assert_close(connector(x_NPF)[:, image_token], expected)
    with pytest.raises(RecipeError, match="9 features cannot be put together by 4"):
        config.image_tokens(9)


def test_the_class_token_of_version_2_is_left_out() -> None:
    model = small("minigpt-v2")
    images = model.processor.prompts([Sample("a", (noise(1), Text("Why?", role="user")))]).images
    assert images is not None
    with torch.no_grad():
        tokens = model.vision.tokens(images)
        torch.testing.assert_close(model.image_features(images), model.connector(tokens[:, 1:])[0])
    assert tokens.shape[1] == 17


def test_tasks_are_asked_by_their_identifiers() -> None:
    assert set(minigpt4.TASKS) == {"vqa", "caption", "grounding", "refer", "identify", "detection"}
    for task, words in minigpt4.TASKS.items():
        assert minigpt4.asked(task, "a dog" if "{}" in words else "").startswith(f"[{task}] ")
    box = "{<20><31><55><90>}"
    assert minigpt4.asked("identify", box) == f"[identify] what object is in this location {box}"
    assert minigpt4.asked("detection", "dogs") == "[detection] dogs"
    with pytest.raises(DataError, match="no task 'captions'; did you mean 'caption'"):
        minigpt4.asked("captions")
    with pytest.raises(DataError, match="'vqa' needs words"):
        minigpt4.asked("vqa")
    with pytest.raises(DataError, match="'grounding' takes no words"):
        minigpt4.asked("grounding", "a dog")


# --- from one stage to the next

STAGE2 = """
name: stage2
data:
  train: {{source: scenes, seed: 1, count: 1000, objects: [1, 1], annotations: false}}
  captions: first
  batch_size: 4
processor:
  tokenizer: {{learn: 400}}
model: {{family: blip2, size: small}}
pretrained:
  vision: {{checkpoint: {stage1}}}
  connector.q_former: {{checkpoint: {stage1}, part: {part}}}
training:
  steps: 1
  device: cpu
  parts: {{vision: {{frozen: true}}, language: {{frozen: true}}}}
"""


def stage1(place: Path) -> Model:
    config = blip2_stage1.SIZES["small"]
    processor = PairProcessor.from_recipe({**config.processor_entries(), "tokenizer": LEARN}, TOLD)
    torch.manual_seed(3)
    model = blip2_stage1.BLIP2Stage1(config, processor)
    folder.save(model, place)
    return model


def recipe(place: Path, part: str = "q_former") -> Recipe:
    file = place / "stage2.yaml"
    file.write_text(STAGE2.format(stage1=place / "stage1", part=part))
    return load_recipe(file)


def test_a_first_stage_hands_its_parts_on_and_only_the_connector_learns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = stage1(tmp_path / "stage1").state_dict()
    run = Experiment(recipe(tmp_path), tmp_path / "run", console=Console(quiet=True))
    begun = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    handed = {
        name: given[name.removeprefix("connector.")]
        for name in begun
        if name.startswith(("vision.", "connector.q_former."))
    }
    assert len(handed) > 100
    assert "are left out: " in caplog.text, "the first stage reads words too"
    assert all(torch.equal(begun[name], tensor) for name, tensor in handed.items())
    assert run.train()
    moved = {name for name, tensor in run.model.state_dict().items() if not torch.equal(tensor, begun[name])}
    assert {"connector.map.weight", "connector.q_former.queries"} <= moved
    assert all(name.startswith("connector.") for name in moved)
    assert load_recipe(tmp_path / "run" / "recipe.yaml") == recipe(tmp_path)


def test_the_model_that_gives_its_parts_is_not_overwritten(tmp_path: Path) -> None:
    stage1(tmp_path / "stage1")
    (tmp_path / "stage1" / "recipe.yaml").write_text(recipe(tmp_path).text())  # so that it is a run
    with pytest.raises(TrainingError, match="holds the model to start from"):
        Experiment(recipe(tmp_path), tmp_path / "stage1", overwrite=True, console=Console(quiet=True))
    assert isinstance(chiasm.load(tmp_path / "stage1"), blip2_stage1.BLIP2Stage1)


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    stage1(tmp_path / "stage1")
    with pytest.raises(RecipeError, match="has no part 'q_formr'; did you mean 'q_former'"):
        build_model(recipe(tmp_path, "q_formr"))
    with pytest.raises(CheckpointError, match=r"pretrained.connector.q_former: .* does not fit"):
        build_model(recipe(tmp_path, "text_head"))


def test_a_layout_of_other_slots_is_refused() -> None:
    model = small("blip2")
    assert isinstance(model.processor.layout, Fixed)
    model.processor.layout = replace(model.processor.layout, image_tokens=3)
    with pytest.raises(
        RecipeError, match=r"size 64, image_tokens 3, but BLIP2 is made for transform\.size 64, image_tokens 8"
    ):
        model.check()
