"""The recipe of captions from frozen parts, cut short: packaged weights, tokenizer and template come together."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.sample import Sample, Text
from chiasm.errors import MissingExtra
from chiasm.experiment.assembly import build_processor
from chiasm.experiment.recipe import load_recipe
from chiasm.experiment.run import Experiment
from chiasm.models.frozen import Frozen
from chiasm.weights.packages import smollm2_135m
from tests.models.generative_models import noise
from tests.shared_data import shared_data

NAME = "vlm/photos-frozen-parts"


@pytest.fixture
def given() -> list[str]:
    """The recipe's overrides, for a few photos."""
    try:
        smollm2_135m.folder()
    except MissingExtra as error:
        pytest.skip(str(error))
    root = shared_data("flickr8k").parent
    few = f"{{source: part, share: 0.02, of: {{source: captions, path: {root}/flickr8k/captions.jsonl, split: train}}}}"
    short = ["data.batch_size=2", "training.steps=2", "evaluation.0.limit=3", "evaluation.0.max_tokens=3"]
    return [f"data.root={root}", f"data.train={few}", *short]


def test_a_packaged_tokenizer_brings_its_template_along(given: list[str]) -> None:
    processor = build_processor(load_recipe(NAME, given))
    assert isinstance(processor, ChatProcessor)
    caption = Sample("x", (noise(1), Text("A dog .", target=True)))
    assert processor.render(caption).text == "<empty_output>" * 6 + "A dog .<|im_end|>"
    ids, learned = processor.tokens(caption)
    assert ids == [0, *processor.ids("<empty_output>") * 6, *processor.ids("A dog ."), *processor.ids("<|im_end|>")]
    assert learned == [False] * 7 + [True] * (len(ids) - 7)
    asked = Sample("x", (noise(1), Text("What is it?", role="user")))
    chat = processor.render(asked, answer=True).text
    assert chat.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert chat.endswith("<empty_output>" * 6 + "What is it?<|im_end|>\n<|im_start|>assistant\n")
    own = build_processor(load_recipe(NAME, [*given, "processor.ends=[<|endoftext|>]"]))
    assert isinstance(own, ChatProcessor)
    assert own.render(caption).text.endswith("A dog .<|endoftext|>")


@pytest.mark.slow
def test_the_recipe_runs_from_photos_to_captions(given: list[str], tmp_path: Path) -> None:
    recipe = load_recipe(NAME, [*given, f"data.features={tmp_path / 'features'}"])
    experiment = Experiment(recipe, tmp_path / "run", console=Console(file=io.StringIO()))
    model = experiment.model
    assert isinstance(model, Frozen)
    assert {name.split(".")[0] for name, one in model.named_parameters() if one.requires_grad} == {"connector"}
    before = {name: one.clone() for name, one in model.state_dict().items()}
    packaged = smollm2_135m.load().state_dict()
    assert all(torch.equal(before[f"language.{name}"], one) for name, one in packaged.items())
    assert experiment.train()
    moved = {name for name, one in model.state_dict().items() if not torch.equal(one, before[name])}
    assert moved == {"connector.map.weight", "connector.map.bias"}
    evaluation = experiment.evaluate()
    assert evaluation is not None
    cider = evaluation.results[0].scores[0]
    assert (cider.name, cider.items) == ("CIDEr", 3)
    assert {"blind", "shuffled", "constant"} <= set(cider.baselines)
