"""Rates by layer and decay by kind of tensor, against timm's and the closed form."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

from chiasm.errors import RecipeError
from chiasm.models import clip
from chiasm.nn.image_towers import vit
from chiasm.nn.text_towers import transformer
from chiasm.training.layers import decaying, depths
from chiasm.training.optimiser import build_optimiser
from chiasm.training.settings import PartSettings, Training
from tests import peers
from tests.worlds import tiny_clip, tiny_processor

DEPTH = 3


def _clip() -> clip.CLIP:
    torch.manual_seed(0)
    vision = vit.Config(16, 8, width=32, layers=DEPTH, heads=2, mlp_width=64)
    text = transformer.Config(320, 16, width=32, layers=2, heads=2, mlp_width=64)
    return clip.CLIP(clip.Config(vision, text, width=16), tiny_processor())


class _Classifier(nn.Module):
    """timm's own ViT under the names by which it knows itself, its body as a tower."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head


def test_rates_and_decays_are_those_of_timm() -> None:
    peers.open_clip()
    timm, optim = importlib.import_module("timm"), importlib.import_module("timm.optim")
    theirs = timm.create_model("vit_tiny_patch16_224", depth=DEPTH, num_classes=5)
    groups = optim.param_groups_layer_decay(
        theirs, weight_decay=0.1, no_weight_decay_list=theirs.no_weight_decay(), layer_decay=0.7
    )
    wanted = {id(one): (g["lr_scale"], g["weight_decay"]) for g in groups for one in g["params"]}
    head = theirs.head
    theirs.head, theirs.blocks = nn.Identity(), nn.ModuleList(theirs.blocks)  # which timm keeps as a Sequential
    settings = Training(steps=1, learning_rate=1.0, weight_decay=0.1, layer_decay=0.7)
    ours = build_optimiser(_Classifier(theirs, head), settings).param_groups
    found = {id(one): (group["peak"], group["weight_decay"]) for group in ours for one in group["params"]}
    assert found.keys() == wanted.keys()
    for key, pair in wanted.items():
        assert found[key] == pytest.approx(pair)


def test_towers_of_different_depths_meet_at_the_top() -> None:
    deep = depths(_clip())
    assert deep["vision.embed.weight"] == deep["vision.position"] == deep["vision.class_token"] == DEPTH + 1
    assert [deep[f"vision.blocks.{at}.mlp.up.weight"] for at in range(DEPTH)] == [3, 2, 1]
    assert [deep[f"text.blocks.{at}.attention.q.bias"] for at in range(2)] == [2, 1]
    assert deep["text.embed.weight"] == 3
    assert deep["vision.norm.weight"] == deep["text.norm.weight"] == 1
    assert deep["image_head.weight"] == deep["text_head.weight"] == deep["log_scale"] == 0
    assert deep.keys() == dict(_clip().named_parameters()).keys()


def test_a_part_has_a_rate_and_a_layer_decay_of_its_own() -> None:
    settings = Training(
        steps=1, learning_rate=1e-3, layer_decay=0.5, parts={"text": PartSettings(learning_rate=1e-4, layer_decay=1.0)}
    )
    groups = build_optimiser(_clip(), settings).param_groups
    rates = {name: group["peak"] for group in groups for name in group["names"]}
    assert rates["vision.blocks.0.mlp.up.weight"] == pytest.approx(1e-3 / 8)
    assert rates["text.embed.weight"] == rates["text.blocks.1.mlp.up.weight"] == pytest.approx(1e-4)
    assert rates["image_head.weight"] == 1e-3


def test_only_what_multiplies_its_input_decays() -> None:
    model = tiny_clip()
    found = decaying(model)
    names = {name for name, parameter in model.named_parameters() if id(parameter) in found}
    assert {"vision.embed.weight", "text.embed.weight", "image_head.weight"} < names
    assert not any(name.endswith(("bias", "position", "class_token", "log_scale")) or "norm" in name for name in names)


@pytest.mark.parametrize("decay", [0.0, 1.5])
def test_a_decay_that_is_no_share_is_refused(decay: float) -> None:
    with pytest.raises(RecipeError, match="layer_decay is a share"):
        Training(steps=1, layer_decay=decay)
    with pytest.raises(RecipeError, match=r"parts\.text\.layer_decay is a share"):
        Training(steps=1, parts={"text": PartSettings(layer_decay=decay)})
