"""An objective that breaks its promise is told so by the contract that it breaks; one that keeps it passes all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.contracts import objectives
from chiasm.contracts.contract import Contract, Trial, outcomes
from chiasm.data.batch import Batch
from chiasm.data.parts import BatchPart, Per
from chiasm.data.processor import Processor
from chiasm.data.sample import Sample
from chiasm.errors import ContractError
from chiasm.models.dual_encoder import DualEncoder
from chiasm.models.model import Model
from chiasm.objectives.objective import Objective, ObjectiveConfig
from chiasm.objectives.seeds import Seeds


@dataclass(frozen=True)
class Config(ObjectiveConfig):
    """Nothing is to be set. `Drawn.broken` says what is wrong with the objective."""

    def build(self, model: Model) -> Objective:
        return Drawn(model)


@dataclass(frozen=True)
class Aim(BatchPart):
    """Where a picture's features are to lie, (B, D)."""

    aim_BD: Annotated[Tensor, Per("sample")]


class Drawn(Objective):
    """Features of pictures and texts are to lie near a head's map of numbers that are drawn for each sample."""

    prepares = True
    broken = ""

    def __init__(self, model: Model) -> None:
        super().__init__()
        assert isinstance(model, DualEncoder)
        self.head = nn.Linear(128, 128)
        self.register_buffer("steps", torch.zeros(()))
        self.steps: Tensor
        if self.broken == "grafted":
            model.register_buffer("aim", torch.zeros(128))

    def extend(
        self, processor: Processor, batch: Batch, samples: Sequence[Sample], generators: Sequence[np.random.Generator]
    ) -> Batch:
        if self.broken == "anew":
            generators = [np.random.default_rng() for _ in samples]
        return batch.adding(Seeds.drawn(generators))

    def prepare(self, model: Model, batch: Batch) -> Batch:
        drawn = [torch.from_numpy(generator.normal(size=128)) for generator in Seeds.generators(batch)]
        aim_BD = torch.stack(drawn).float()
        if self.broken == "redrawn":
            aim_BD = torch.randn_like(aim_BD)
        if self.broken == "company":
            aim_BD = aim_BD - aim_BD.mean(0)
        if self.broken == "gradient":
            with torch.enable_grad():
                torch.autograd.backward(self.head(aim_BD).sum())
        if self.broken == "learning":
            self.steps += 1
        return batch.adding(Aim(aim_BD))

    def losses(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(model, DualEncoder)
        if self.broken == "silent":
            return {}
        made = model.features(batch)
        if self.broken == "cut":
            made["image"] = made["image"].detach()
        if self.broken == "nan":
            made["image"] = made["image"] / 0
        pulled = (1 + self.steps) * self.head(batch.part(Aim).aim_BD)
        loss = F.mse_loss(made["image"], pulled) + F.mse_loss(made["text"], pulled)
        if self.broken == "compares":  # without saying so
            loss = loss + F.mse_loss(made["image"].mean(0), made["text"].mean(0))
        return {"near": loss}

    def weight(self, model: Model, batch: Batch) -> int:
        return 1 if self.broken == "weight" else super().weight(model, batch)

    def end_step(self, model: Model) -> None:
        self.steps += 1

    def expected_zero_grad(self, model: Model) -> frozenset[str]:
        return frozenset({"log_scale"})

    def saved(self) -> dict[str, Tensor]:
        return (
            {"head.weight": self.head.weight, "head.bias": self.head.bias}
            if self.broken == "saved"
            else super().saved()
        )


def test_an_objective_that_keeps_its_promises_passes() -> None:
    found = list(outcomes(Config))
    assert len(found) > 8
    assert not [outcome for outcome in found if outcome.problem]


ADDED, PARTS = objectives.what_is_added_follows_from_the_position, objectives.parts_of_a_batch_learn_what_the_whole_does


@pytest.mark.parametrize(
    ("broken", "contract", "told"),
    [
        ("silent", objectives.losses_reach_all_that_learns, r"losses\(\) gives no loss"),
        ("nan", objectives.losses_reach_all_that_learns, "the loss 'near' is no finite scalar"),
        ("cut", objectives.losses_reach_all_that_learns, "no gradient reaches .*vision"),
        ("anew", ADDED, r"extend\(\) draws otherwise where a run begins at the same position \(Seeds.seed_B\)"),
        ("redrawn", ADDED, r"prepare\(\) gives something else when it is called again \(Aim.aim_BD\)"),
        ("company", ADDED, r"what prepare\(\) adds of a sample depends on the others \(Aim.aim_BD\)"),
        ("gradient", ADDED, r"prepare\(\) leaves a gradient at objective.head.weight"),
        ("learning", ADDED, r"prepare\(\) changes objective.steps"),
        ("unprepared", ADDED, "has a prepare\\(\\), but `prepares` is not True"),
        ("compares", PARTS, "the loss 'near' of step 1 is .* where the batch comes in parts"),
        ("weight", PARTS, "the loss 'near' of step 1 is .* where the batch comes in parts"),
        ("saved", objectives.a_resumed_run_ends_with_the_same_bits, r"other values of .*see saved\(\)"),
        ("grafted", objectives.what_it_owns_is_no_part_of_the_model, r"the model's checkpoint holds aim, which"),
    ],
)
def test_a_broken_objective_is_told(
    broken: str, contract: Contract, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Drawn, "broken", broken)
    monkeypatch.setattr(Drawn, "prepares", broken != "unprepared")
    with pytest.raises(ContractError, match=told):
        contract(Trial(Config, tmp_path))
