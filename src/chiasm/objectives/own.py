"""The family's own losses, `Model.losses`: the objective of a recipe that names none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from chiasm.data.batch import Batch
from chiasm.models.model import ContrastiveModel, Model
from chiasm.objectives.objective import ContrastiveObjective, Objective, ObjectiveConfig


@dataclass(frozen=True)
class Config(ObjectiveConfig):
    """The family's own losses; there are no settings."""

    def build(self, model: Model) -> Objective:
        return OwnContrastive(model) if isinstance(model, ContrastiveModel) else Own()


class Own(Objective):
    """`Model.losses`, means over `Model.weight`."""

    def losses(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        return model.losses(batch)

    def expected_zero_grad(self, model: Model) -> frozenset[str]:
        return model.expected_zero_grad()


class OwnContrastive(ContrastiveObjective):
    """The own losses of a model that compares samples: `losses`, or `features` and `losses_of` for a batch in parts."""

    def __init__(self, model: ContrastiveModel) -> None:
        super().__init__()
        self.compares_by_layers = model.compares_by_layers

    def losses(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        return model.losses(batch)

    def features(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(model, ContrastiveModel)
        return model.features(batch)

    def losses_of(self, model: Model, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert isinstance(model, ContrastiveModel)
        return model.losses_of(features)

    def expected_zero_grad(self, model: Model) -> frozenset[str]:
        return model.expected_zero_grad()
