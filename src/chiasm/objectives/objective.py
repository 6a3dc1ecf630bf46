"""What an objective offers to the loop: named losses of a model and a batch, and all that they need beside these two.

    objective: {objective: distillation, teacher: runs/large}    # in a recipe; without it, the family's own losses

The road of a batch: `extend` adds to what the processor made (views, masks, negatives), in the reader's threads;
`prepare` adds what follows from models without gradients (a teacher's features, rollouts); `losses` learns from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from chiasm.config import Component
from chiasm.data.batch import Batch
from chiasm.data.processor import Processor
from chiasm.data.sample import Sample
from chiasm.errors import RecipeError
from chiasm.models.model import Model
from chiasm.nn.freezing import keep_frozen_in_eval


@dataclass(frozen=True)
class OwnOptimiser:
    """AdamW for a part of an objective, apart from the recipe's: rate, moments and decay of its own, and a gradient
    that is clipped on its own. The rate follows the recipe's schedule.

    For a part that plays against the model (a discriminator), whose norm must not decide how the model is clipped.
    """

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if self.learning_rate < 0 or self.weight_decay < 0 or not all(0 <= beta < 1 for beta in self.betas):
            raise RecipeError(
                f"an objective's optimiser has a rate and a decay of at least 0 and betas from 0 to below 1, not {self}"
            )


class Objective(nn.Module, ABC):
    """Named losses of a model and a batch.

    Modules and tensors that are set on it are its own: on the model's device, shared between ranks as the model is,
    saved in the training state (`saved`), learned with the model, and never part of the model's checkpoint.

    prepares: whether `prepare` does anything.
    compares: whether the loss of a batch is not the mean over its parts; see `ContrastiveObjective`.
    compares_by_layers: see `chiasm.models.model.ContrastiveModel`.
    """

    prepares: ClassVar[bool] = False
    compares: ClassVar[bool] = False
    compares_by_layers: bool = False

    @abstractmethod
    def losses(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """Named scalar losses; the recipe weighs them. Names that begin with "_" are only logged."""

    def weight(self, model: Model, batch: Batch) -> int:
        """What the losses of a batch are means over, counted: parts of a batch are averaged by it."""
        return model.weight(batch)

    def extend(
        self,
        processor: Processor,  # noqa: ARG002  # most need nothing
        batch: Batch,
        samples: Sequence[Sample],  # noqa: ARG002  # likewise
        generators: Sequence[np.random.Generator],  # noqa: ARG002  # likewise
    ) -> Batch:
        """The batch with what is to be read beside it; see `Batch.adding`. Runs in the reader's threads: no model here.

        generators: one a sample, seeded by (seed, position of the sample in the data). What is drawn from them is the
        same after a resume, in parts, and on any number of ranks.
        """
        return batch

    def prepare(self, model: Model, batch: Batch) -> Batch:  # noqa: ARG002  # most need nothing
        """The batch with what follows from models without gradients. Called for each part of a batch, on the CPU; what
        it adds of a sample must follow from that sample alone. Random numbers: `Seeds`."""
        return batch

    def begin_step(self, model: Model, step: int, steps: int) -> None:
        """Called before each step, counted from 0, of a run of so many."""

    def end_step(self, model: Model) -> None:
        """Called after the optimiser has changed the model (a teacher that follows it; a running mean)."""

    def expected_zero_grad(self, model: Model) -> frozenset[str]:  # noqa: ARG002  # most reach all
        """Names of the model's tensors, and of its own as "objective.NAME", that learn nothing at first, by design."""
        return frozenset()

    def own_optimisers(self) -> Mapping[str, OwnOptimiser]:
        """By part of the objective (an attribute), how it learns where that is not as the recipe says."""
        return {}

    def saved(self) -> dict[str, Tensor]:
        """What a resumed run needs of it, by name; all of its state by default."""
        return self.state_dict()

    def train(self, mode: bool = True) -> Any:
        """Parts of which no parameter learns, such as a teacher, stay in eval mode."""
        super().train(mode)
        if mode:
            keep_frozen_in_eval(self)
        return self


class ContrastiveObjective(Objective):
    """An objective that compares the samples of a batch, split into `features` and `losses_of`, so that a batch larger
    than memory is learned from exactly; see `chiasm.models.model.ContrastiveModel`, whose terms these are."""

    compares = True

    @abstractmethod
    def features(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """What is compared: tensors with a row a sample, each of which follows from its own sample alone."""

    @abstractmethod
    def losses_of(self, model: Model, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses of a batch with these features; called once a step on each rank, with all of its samples."""

    def losses(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        return self.losses_of(model, self.features(model, batch))


class ObjectiveConfig(Component, ABC, package="chiasm.objectives", key="objective"):
    """A recipe's choice of an objective.

    example_family: the family of models on whose size `small` the contracts try it, with the entries of `example`.
    """

    example_family: ClassVar[str] = "clip"

    def check(self, model: Model) -> None:
        """Raises ChiasmError where this model cannot be trained so; called before anything is written."""

    @abstractmethod
    def build(self, model: Model) -> Objective:
        """The objective for this model as it will be trained, with its adapters; random numbers are seeded."""


@contextmanager
def untouched(part: nn.Module) -> Iterator[None]:
    """A context in which gradients flow through a part, but not to its parameters.

    For the loss by which a model plays against a discriminator; the discriminator learns from its own.
    """
    learning = [parameter for parameter in part.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
