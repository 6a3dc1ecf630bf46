"""What speakers with a resampler offer: all verbs, alike for one sample and for many of mixed sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.sample import Sample, Text
from chiasm.errors import DataError, RecipeError
from chiasm.experiment.entries import deep_merge
from chiasm.models import minicpm_v, monkey, qwen_vl
from chiasm.models.generative import VisionLanguageModel
from chiasm.models.model import ModelConfig
from tests.models.generative_models import TEXTS
from tests.weights.pictures import noise

KINDS = {"qwen_vl": qwen_vl, "minicpm_v": minicpm_v, "monkey": monkey}
QUESTIONS = ("Is there a dog?", "What colour is the ball?")


def made(name: str, **layout: Any) -> VisionLanguageModel:
    config: ModelConfig = KINDS[name].SIZES["small"]
    entries = deep_merge(config.processor_entries(), {"tokenizer": {"learn": 300}, "layout": layout})
    torch.manual_seed(0)
    model = config.model()(config, ChatProcessor.from_recipe(entries, TEXTS))
    assert isinstance(model, VisionLanguageModel)
    with torch.no_grad():  # random weights say the same to everything; larger ones differ between questions
        for one in model.parameters():
            one.mul_(3.0)
    return model.eval()


def samples(target: bool = False) -> list[Sample]:
    """Pictures of several sizes, one and two at once, and none."""
    last = (Text("Yes red ball", target=True),) if target else ()
    shown = ((noise(40, 48),), (noise(150, 50, seed=1), noise(9, 9, seed=2)), (), (noise(90, 100, seed=3),))
    return [Sample(str(at), (*pictures, Text(QUESTIONS[at % 2]), *last)) for at, pictures in enumerate(shown)]


@pytest.mark.parametrize("name", KINDS)
def test_many_samples_are_answered_and_scored_as_one_by_one(name: str) -> None:
    model = made(name)
    together = [one.texts[-1].text for one in model.generate(samples(), max_tokens=8)]
    alone = [model.generate([one], max_tokens=8)[0].texts[-1].text for one in samples()]
    assert together == alone
    assert len(set(alone)) > 1, "a model that says one thing to all proves nothing"
    assert ["".join(model.stream(one, max_tokens=8)) for one in samples()] == alone
    told = model.log_likelihood(samples(target=True))
    each = torch.cat([model.log_likelihood([one]) for one in samples(target=True)])
    torch.testing.assert_close(told, each, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_questions_about_one_picture_share_it(name: str) -> None:
    model, begun = made(name), Sample("a", (noise(150, 50, seed=1),))
    asked = [(Text(one),) for one in QUESTIONS]
    alone = [model.generate([Sample("a", (*begun.parts, *one))], max_tokens=8)[0].texts[-1].text for one in asked]
    assert model.answers(begun, asked, max_tokens=8) == alone


@pytest.mark.parametrize("name", KINDS)
def test_scores_do_not_depend_on_what_is_scored_beside(name: str) -> None:
    model, images, texts = made(name), [noise(40, 48), noise(150, 50, seed=1)], ["a red ball", "Yes", "two dogs"]
    for by in model.scorings:
        found = model.score(images, texts, by=by)  # type: ignore[arg-type]  # one of them
        assert found.shape == (2, 3)
        torch.testing.assert_close(
            found[1:, 2:],
            model.score(images[1:], texts[2:], by=by),  # type: ignore[arg-type]  # likewise
            atol=1e-4,
            rtol=1e-4,
        )
        assert not torch.allclose(found[0], found[1], atol=1e-3), "the picture is not seen"


@pytest.mark.parametrize("name", KINDS)
def test_a_picture_that_fills_the_context_names_the_sample(name: str) -> None:
    model = made(name)
    many = Sample("album/3", (*(noise(96, 96, seed=at) for at in range(40)), Text("What?")))
    with pytest.raises(DataError, match=r"'album/3' has \d+ tokens, \d+ of them for its pictures, but the context is"):
        model.generate([many], max_tokens=1)


@pytest.mark.parametrize(
    ("name", "layout", "told"),
    [
        (
            "qwen_vl",
            {"image_tokens": 4},
            r"size 64, image_tokens 4, but QwenVL is made for transform\.size 64, image_tokens 16",
        ),
        (
            "minicpm_v",
            {"image_tokens": 4},
            "has patch 8, image_tokens 4, but MiniCPMV is made for patch 8, image_tokens 8",
        ),
        (
            "monkey",
            {"columns": 1},
            "has window 64, rows 1, columns 1, image_tokens 16, but Monkey is made for window 64, rows 1, columns 2",
        ),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(name: str, layout: dict[str, int], told: str) -> None:
    made(name).check()
    with pytest.raises(RecipeError, match=told):
        made(name, **layout).check()
    foreign = made("monkey" if name != "monkey" else "qwen_vl").processor
    model = made(name)
    own, model.processor = model.processor.layout, foreign
    assert own is not None
    with pytest.raises(RecipeError, match=f"set processor.layout to {own.chosen()}"):
        model.check()


def test_fresh_adapters_wait_for_their_second_step_and_nothing_else_does() -> None:
    """Their upper halves are zeros: until these have moved, no gradient reaches the lower ones."""
    assert not made("qwen_vl").expected_zero_grad()
    model = made("monkey").train()
    torch.autograd.backward(model.losses(model.processor(samples(target=True)))["next_token"])
    still = {name for name, one in model.named_parameters() if one.grad is None or not one.grad.any()}
    still = {name for name in still if not name.endswith("attention.k.bias")}  # of which a softmax knows nothing
    assert still == model.expected_zero_grad()
    with torch.no_grad():
        for name, one in model.named_parameters():
            if ".up." in name:
                one.add_(0.01)
    assert not model.expected_zero_grad()
