"""The seam itself, by an objective that owns a part which plays against the model, and draws random numbers in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from chiasm.data.batch import Batch
from chiasm.data.parts import BatchPart, Per
from chiasm.data.reader import Reader
from chiasm.errors import RecipeError
from chiasm.experiment.recipe import load_recipe
from chiasm.models import clip
from chiasm.models.model import Model
from chiasm.objectives.objective import Objective, OwnOptimiser, untouched
from chiasm.objectives.seeds import Seeds
from chiasm.training.loop import Loop
from chiasm.training.settings import Training
from tests.worlds import Patches, tiny_clip, tiny_processor

STEPS = 5


@dataclass(frozen=True)
class Noise(BatchPart):
    """Numbers that are drawn for each sample without gradients: (B, D)."""

    noise_BD: Annotated[Tensor, Per("sample")]


class Adversarial(Objective):
    """Pictures' features are to look like noise to a critic, which learns to tell them apart."""

    prepares = True

    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 1))
        self.seen: list[int] = []

    def extend(self, processor, batch, samples, generators):  # type: ignore[no-untyped-def]
        return batch.adding(Seeds.drawn(generators))

    def prepare(self, model: Model, batch: Batch) -> Batch:
        assert not torch.is_grad_enabled()
        drawn = [torch.from_numpy(generator.normal(size=16)) for generator in Seeds.generators(batch)]
        return batch.adding(Noise(torch.stack(drawn).float()))

    def losses(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(model, clip.CLIP)
        assert batch.images is not None
        made = model.encode_images(batch.images)
        with untouched(self.critic):
            fooled = F.softplus(-self.critic(made)).mean()
        noise_BD = batch.part(Noise).noise_BD
        told = F.softplus(self.critic(made.detach())).mean() + F.softplus(-self.critic(noise_BD)).mean()
        return {"fooled": fooled, "told": told}

    def own_optimisers(self) -> Mapping[str, OwnOptimiser]:
        return {"critic": OwnOptimiser(3e-3, betas=(0.5, 0.9), weight_decay=0.02, clip_norm=0.3)}

    def expected_zero_grad(self, model: Model) -> frozenset[str]:
        return frozenset(name for name, _ in model.named_parameters() if name.startswith(("text", "log_scale")))


def _loop(folder: Path, seed: int = 0, **changes: object) -> Loop:
    model = tiny_clip(seed)
    torch.manual_seed(seed + 1)
    objective = Adversarial()
    reader = Reader(Patches(60), tiny_processor(), 12, seed=1, extend=objective.extend)
    entries = {"steps": STEPS, "device": "cpu", "schedule": "constant", "log_every": 1, "clip_norm": 0.05, **changes}
    settings = Training(**entries)  # type: ignore[arg-type]
    return Loop(model, reader, settings, folder, recipe="x\n", console=Console(quiet=True), objective=objective)


def test_a_part_with_an_optimiser_of_its_own_learns_as_two_optimisers_by_hand_do(tmp_path: Path) -> None:
    """Rates, moments, decay and clipping apart, each loss for its own side; in one loop."""
    run = _loop(tmp_path)
    run.run()
    model = tiny_clip()
    torch.manual_seed(1)
    critic = Adversarial().critic
    learned = [one for name, one in model.vision.named_parameters() if name == "position"]
    weights = [one for one in model.parameters() if one.ndim >= 2 and one is not learned[0]]
    weights = [one for one in weights if one is not model.text.get_parameter("position")]
    others = [one for one in model.parameters() if all(one is not known for known in weights)]
    of_model = torch.optim.AdamW(
        [{"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=1e-3,
        betas=(0.9, 0.98),
        eps=1e-6,
    )
    matrices = [one for one in critic.parameters() if one.ndim == 2]
    biases = [one for one in critic.parameters() if one.ndim == 1]
    of_critic = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.02}, {"params": biases, "weight_decay": 0.0}],
        lr=3e-3,
        betas=(0.5, 0.9),
        eps=1e-6,
    )
    batches = iter(Reader(Patches(60), tiny_processor(), 12, seed=1, extend=Adversarial().extend))
    for _ in range(STEPS):
        batch = next(batches)
        noise = torch.stack([torch.from_numpy(one.normal(size=16)) for one in Seeds.generators(batch)]).float()
        assert batch.images is not None
        made = model.encode_images(batch.images)
        critic_loss = F.softplus(critic(made.detach())).mean() + F.softplus(-critic(noise)).mean()
        model_loss = F.softplus(-critic(made)).mean()
        of_model.zero_grad()
        torch.autograd.backward(model_loss)
        of_critic.zero_grad()  # what the model's loss left there
        torch.autograd.backward(critic_loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        torch.nn.utils.clip_grad_norm_(critic.parameters(), 0.3)
        of_model.step()
        of_critic.step()
    assert isinstance(run.objective, Adversarial)
    for name, tensor in critic.state_dict().items():
        torch.testing.assert_close(run.objective.critic.state_dict()[name], tensor, msg=name)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(run.model.state_dict()[name], tensor, atol=1e-5, rtol=1e-4, msg=name)


def test_what_is_drawn_without_gradients_is_the_same_in_parts_and_after_a_resume(tmp_path: Path) -> None:
    whole, parts = _loop(tmp_path / "whole"), _loop(tmp_path / "parts", accumulate=4)
    whole.run()
    parts.run()
    cut = _loop(tmp_path / "cut", steps=STEPS, checkpoint_every=3)
    cut.run()
    again = _loop(tmp_path / "cut", seed=8)
    assert again.resume() == 3
    again.run()
    for name, tensor in whole.learner.state_dict().items():
        assert torch.equal(again.learner.state_dict()[name], tensor), name
        torch.testing.assert_close(parts.learner.state_dict()[name], tensor, atol=1e-5, rtol=1e-4)


def test_a_recipe_chooses_an_objective_and_a_stage_another() -> None:
    chosen = ["objective={objective: siglip2, prototypes: 64}", "training.steps=2"]
    recipe = load_recipe("siglip/scenes", chosen)
    assert recipe.objective is not None
    assert recipe.objective.chosen() == "siglip2"
    staged = load_recipe(
        "siglip/scenes", [*chosen, "stages=[{name: a, objective: own}, {name: b, training: {steps: 3}}]"]
    )
    first, second = staged.stage(0, None).objective, staged.stage(1, "runs/a").objective
    assert first is not None
    assert second is not None
    assert (first.chosen(), second.chosen()) == ("own", "siglip2")
    with pytest.raises(RecipeError, match="objective: there is no objective 'siglip3'; did you mean 'siglip2'"):
        load_recipe("siglip/scenes", ["objective=siglip3"])
    with pytest.raises(RecipeError, match=r"objective\.prototype: there is no such key; did you mean 'prototypes'"):
        load_recipe("siglip/scenes", ["objective={objective: siglip2, prototype: 64}"])
