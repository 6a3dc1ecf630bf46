"""An exponential moving average of the weights (Polyak & Juditsky 1992); often better than the last weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Average:
    """average <- decay * average + (1 - decay) * weights, after every step; starts at the first weights.

    The decay rises as (1 + step) / (10 + step) at first, so that a short run does not average its beginning.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, torch.zeros((), dtype=torch.long)
        self.weights = {
            name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        self.weights["steps"] = self.steps

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + float(self.steps)) / (10 + float(self.steps)))
        for name, parameter in model.named_parameters():
            if name in self.weights:
                self.weights[name].lerp_(parameter, 1 - decay)

    def state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """The model's state with the averaged tensors in place of the live ones."""
        return {name: self.weights.get(name, tensor) for name, tensor in model.state_dict().items()}
