"""A model and its objective as one module: what ranks share, what is compiled, what the loop calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from chiasm.data.batch import Batch
from chiasm.models.model import Model
from chiasm.objectives import own
from chiasm.objectives.objective import ContrastiveObjective, Objective

OBJECTIVE = "objective."  # before the names of the objective's tensors, where they stand beside the model's


class Learner(nn.Module):
    """A model with its objective. objective: None for the family's own losses.

    Where the objective compares samples, this offers what a ContrastiveModel does.
    """

    def __init__(self, model: Model, objective: Objective | None = None) -> None:
        super().__init__()
        self.model, self.objective = model, objective if objective is not None else own.Config().build(model)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def compares(self) -> bool:
        return self.objective.compares

    @property
    def compares_by_layers(self) -> bool:
        return self.objective.compares_by_layers

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return self.objective.losses(self.model, batch)

    def weight(self, batch: Batch) -> int:
        return self.objective.weight(self.model, batch)

    def features(self, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(self.objective, ContrastiveObjective)
        return self.objective.features(self.model, batch)

    def losses_of(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert isinstance(self.objective, ContrastiveObjective)
        return self.objective.losses_of(self.model, features)

    @torch.no_grad()
    def prepare(self, batch: Batch) -> Batch:
        return self.objective.prepare(self.model, batch)

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The trainable parameters by their names in the model; the objective's own under "objective."."""
        for prefix, module in (("", self.model), (OBJECTIVE, self.objective)):
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    yield prefix + name, parameter
