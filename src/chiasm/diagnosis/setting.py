"""The subject of the checks: a recipe, the sets that it names, and its processor and model, built without weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from torch import nn

from chiasm.config import dump
from chiasm.data.processor import Processor
from chiasm.data.source import Source
from chiasm.data.transforms import ImageTransform
from chiasm.diagnosis.finding import Finding
from chiasm.diagnosis.seen import TRAINING, Seen, look
from chiasm.errors import ChiasmError
from chiasm.evaluation.request_runner import RunOptions
from chiasm.evaluation.run import check
from chiasm.experiment.assembly import build_processor, model_config, model_on_meta
from chiasm.experiment.recipe import Recipe
from chiasm.models.model import ContrastiveModel, Model
from chiasm.objectives import own
from chiasm.objectives.objective import ObjectiveConfig
from chiasm.training.optimiser import freeze
from chiasm.weights import load

T = TypeVar("T")


@dataclass(frozen=True)
class Set:
    """A set of samples. name: "training", or the titles of the tasks that ask about it. limit: the tasks' limit."""

    name: str
    source: Source
    limit: int | None = None

    def spread(self, sample: int | None) -> Sequence[int]:
        """The indexes of `sample` samples, evenly spread; None means all. Tasks ask about the same spread."""
        count = len(self.source)
        asked = count if self.limit is None else min(count, self.limit)
        wanted = asked if sample is None else min(asked, sample)
        asked_about = (at * asked // max(1, wanted) for at in range(wanted))
        return [index * count // asked for index in asked_about]


class Setting:
    """A recipe and what follows from it. What cannot be built is a finding; checks that need it find nothing.

    evaluation: whether its tasks are asked for their questions, which reads their data.
    """

    def __init__(self, recipe: Recipe, *, evaluation: bool = True) -> None:
        self.recipe = recipe
        self.findings: list[Finding] = []
        self.processor: Processor | None = self._built("the processor cannot be built", lambda: build_processor(recipe))
        self.model: Model | None = self._built("the model cannot be built", self._on_meta)
        if self.model is not None:
            model = self.model
            if evaluation:
                self._built(
                    "the evaluation cannot be asked",
                    lambda: check(model, recipe.evaluation, RunOptions(recipe.score_by, load=load)),
                )
            self._built("a part cannot be frozen", lambda: freeze(model, recipe.training))
            self._built("the objective does not fit the model", lambda: self.objective.check(model))

    def _on_meta(self) -> Model | None:
        """The model with its adapters on the meta device: shapes without weights."""
        if self.processor is None:
            return None
        model = model_on_meta(model_config(self.recipe), self.recipe.adapters, self.processor)
        model.check()
        return model

    def _built(self, title: str, build: Callable[[], T]) -> T | None:
        try:
            return build()
        except ChiasmError as error:
            self.findings.append(
                Finding("build", "error", f"{title}: {error}", "`chiasm train` stops here.", "Change the recipe.")
            )
            return None

    @property
    def objective(self) -> ObjectiveConfig:
        """The objective: the recipe's, or the family's own losses."""
        return self.recipe.objective if self.recipe.objective is not None else own.Config()

    @property
    def contrastive(self) -> bool:
        """Whether samples of a batch are compared with each other, so that equal ones deny each other."""
        return isinstance(self.model, ContrastiveModel)

    @property
    def transform(self) -> ImageTransform | None:
        """The transform of images to pixels, where it is the same for all."""
        return self.processor.transform if self.processor is not None else None

    @property
    def trainable(self) -> list[nn.Parameter]:
        return (
            []
            if self.model is None
            else [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        )

    @cached_property
    def sets(self) -> tuple[Set, ...]:
        """The evaluation's data, each once, then the training data."""
        found: dict[str, Set] = {}
        for task in self.recipe.evaluation:
            key = f"{dump(task.data)} {task.limit}"
            name = f"{found[key].name} + {task.title}" if key in found else task.title
            found[key] = Set(name, task.data, task.limit)
        return (*found.values(), Set(TRAINING, self.recipe.data.train))

    def seen(self, set_: Set, index: int) -> Seen:
        """Reads a sample of a set."""
        return look(set_.name, set_.source, index, self.processor, self.recipe.data.captions)
