from __future__ import annotations

from typing import Any

import pytest

from chiasm.errors import RecipeError
from chiasm.training.optimiser import build_optimiser, freeze, schedule
from chiasm.training.settings import PartSettings, Training
from tests.worlds import tiny_clip


@pytest.mark.parametrize(
    ("kind", "step", "share"),
    [
        ("constant", 99, 1.0),
        ("cosine", 4, 0.5),  # in the middle of the rise over 10 steps
        ("cosine", 10, 1.0),
        ("cosine", 55, 0.1 + 0.9 / 2),
        ("cosine", 100, 0.1),
        ("linear", 55, 0.1 + 0.9 / 2),
        ("wsd", 79, 1.0),
        ("wsd", 90, 0.1 + 0.9 / 2),
    ],
)
def test_schedules(kind: Any, step: int, share: float) -> None:
    settings = Training(steps=100, warmup=0.1, schedule=kind, final_learning_rate=0.1, decay=0.2)
    assert schedule(settings, step) == pytest.approx(share)


def test_parts_have_rates_of_their_own_and_vectors_do_not_decay() -> None:
    model = tiny_clip()
    settings = Training(
        steps=1, parts={"text": PartSettings(learning_rate=1e-5), "text.embed": PartSettings(weight_decay=0.0)}
    )
    groups = build_optimiser(model, settings).param_groups
    found = {name: (group["peak"], group["weight_decay"]) for group in groups for name in group["names"]}
    assert found["text.embed.weight"] == (1e-3, 0.0)
    assert found["text.blocks.0.mlp.up.weight"] == (1e-5, 0.1)
    assert found["text.blocks.0.mlp.up.bias"] == (1e-5, 0.0)
    assert found["image_head.weight"] == (1e-3, 0.1)
    assert found["log_scale"] == (1e-3, 0.0)
    assert len(found) == len(list(model.parameters()))


def test_a_part_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(RecipeError, match="no such part; did you mean 'vision'"):
        freeze(tiny_clip(), Training(steps=1, parts={"visoin": PartSettings(frozen=True)}))
    model = tiny_clip()
    settings = Training(steps=1, parts={name: PartSettings(frozen=True) for name, _ in model.named_children()})
    freeze(model, settings)
    model.log_scale.requires_grad_(False)
    with pytest.raises(RecipeError, match="nothing is left to train"):
        build_optimiser(model, settings)


def test_nothing_can_be_set_for_a_part_that_the_family_never_trains() -> None:
    model = tiny_clip()
    model.text.requires_grad_(False)
    with pytest.raises(RecipeError, match=r"training\.parts\.text: a CLIP never trains this part"):
        freeze(model, Training(steps=1, parts={"text": PartSettings(learning_rate=1e-4)}))
    with pytest.raises(RecipeError, match=r"training\.parts\.text\.blocks: .* leave the entry out"):
        freeze(model, Training(steps=1, parts={"text": PartSettings(frozen=True), "text.blocks": PartSettings()}))
    freeze(
        model, Training(steps=1, parts={"text": PartSettings(frozen=True), "vision": PartSettings(learning_rate=1e-4)})
    )
    assert not any(one.requires_grad for one in model.text.parameters())
    assert all(one.requires_grad for one in model.vision.parameters())
