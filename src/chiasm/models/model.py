"""What a model offers: named losses to the loop, and those of the three verbs that it can: embed, score, generate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from chiasm.config import Component, suggest
from chiasm.data.batch import Batch
from chiasm.data.image import Image
from chiasm.data.processor import Processor
from chiasm.data.sample import Sample


class ModelConfig(Component, ABC, package="chiasm.models", key="family"):
    """A recipe's choice of a family and its sizes; saved as config.json in a checkpoint.

    only_in_training: fields on which no answer of a trained model depends, such as dropout and first values.
    """

    only_in_training: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    @abstractmethod
    def model(cls) -> type[Model]:
        """The class that this configures."""

    def processor_entries(self) -> Mapping[str, Any]:
        """Entries of the processor that follow from the model; a recipe need not repeat them, but may override them."""
        return {}

    def parameters(self) -> int:
        """How many parameters the model has; counted without holding any."""
        return sum(parameter.numel() for parameter in self.on_meta().parameters())

    def on_meta(self, processor: Processor | None = None) -> Model:
        """The model on the meta device: shapes without values, none of which depends on the processor.

        `to_empty` makes one of it that can be filled, and no random number is drawn.
        """
        with torch.device("meta"), _Unfilled():
            return self.model()(self, cast("Processor", processor))


class _Unfilled(TorchFunctionMode):
    """Leaves out what fills tensors with random numbers: without values it does nothing, and takes most of the time."""

    FILLING: ClassVar = frozenset({nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_})

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), entries: dict[str, Any] | None = None
    ) -> Any:
        del types
        entries = entries or {}
        if function in self.FILLING:
            return args[0] if args else entries["tensor"]
        return function(*args, **entries)


class Adapting(Protocol):
    """What adapters in a model do for its checkpoints, which hold what learned and refer to a base for the rest."""

    def write(self, model: nn.Module, folder: Path) -> dict[str, Tensor]:
        """Writes the adapters into a folder; returns the other tensors that learned."""

    def read(self, model: nn.Module, folder: Path) -> dict[str, Tensor]:
        """All that learned, by the names of the model's state."""


class Model(nn.Module, ABC):
    """A vision-language model.

    A family is one file in `chiasm/models/` with a Config, the published SIZES, and one subclass. `config` and
    `processor` travel with the weights; `processor_type` reads the latter back. `adaptation`: the adapters in it.
    `shared`: other processes show it pictures, and wait for this one there, whether or not its own batch has any.
    """

    processor_type: type[Processor]
    adaptation: Adapting | None = None
    shared = False

    def __init__(self, config: ModelConfig, processor: Processor) -> None:
        super().__init__()
        self.config, self.processor = config, processor

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalar losses of a batch; the recipe weighs them. Names that begin with "_" are only logged."""

    def weight(self, batch: Batch) -> int:
        """What a batch's losses are means over, counted: parts of a batch are averaged by it. Samples by default."""
        return len(batch)

    def check(self) -> None:
        """Raises RecipeError if the processor makes what this model cannot read; a family says what that is."""

    def require_own(self, action: str) -> None:
        """Raises CapabilityError for a model that can only be asked. deed: what was to be done, such as "blended"."""

    def waiting(self) -> frozenset[str]:
        """Names of the tensors that no gradient reaches yet, by design: others have to move first."""
        return frozenset()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def train(self, mode: bool = True) -> Any:
        """Frozen parts stay in eval mode, whatever the rest does: their dropout and batch statistics are not ours."""
        super().train(mode)
        for part in self.modules():  # a part of a part comes after it
            if (frozen := vars(part).get("frozen")) is not None:
                nn.Module.train(part, mode and not frozen)
        return self


class ContrastiveModel(Model):
    """A model whose losses compare the samples of a batch with each other: the loss of a batch is not the mean over its
    parts. It says where the comparing begins, so that a batch larger than memory can still be learned from exactly.

    compares_by_layers: whether `losses_of` uses more of the model's parameters than scalars. They must then be whole on
        every process, so the parts of a batch cannot be computed with a model that is sliced.
    """

    compares_by_layers: ClassVar[bool] = False

    @abstractmethod
    def features(self, batch: Batch) -> dict[str, Tensor]:
        """What is compared: tensors with a row a sample, each of which follows from its own sample alone.

        Those of whole numbers pass on what belongs to a sample, such as its tokens; no gradient goes through them.
        """

    @abstractmethod
    def losses_of(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses of a batch with these features; see `compares_by_layers`."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return self.losses_of(self.features(batch))


@runtime_checkable
class Embedder(Protocol):
    """A model that puts pictures and texts into one space."""

    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """(N, D), unit length, on the CPU."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """(N, D), unit length, on the CPU."""


@runtime_checkable
class Scorer(Protocol):
    """A model that says how well texts match pictures."""

    def score(self, images: Sequence[Image], texts: Sequence[str]) -> Tensor:
        """(N_images, N_texts), higher matches better; comparable along both axes."""


@runtime_checkable
class Generator(Protocol):
    """A model that continues samples with text (or pictures)."""

    def generate(self, samples: Sequence[Sample], *, max_tokens: int) -> list[Sample]:
        """Each sample with the answer as its last part."""


Loader = Callable[[Path], Model]  # opens the folder of a checkpoint


def suggest_part(name: str, model: nn.Module) -> str:
    """The end of an error about a part that a model has not: the nearest, or those on as high a level."""
    return suggest(name, [part for part, _ in model.named_modules() if part and part.count(".") <= name.count(".")])


VERBS: dict[str, type] = {"embed": Embedder, "score": Scorer, "generate": Generator}


def verbs(model: type[Model]) -> tuple[str, ...]:
    """Which of the three verbs a class of models offers."""
    needed = {"embed": ("embed_images", "embed_texts"), "score": ("score",), "generate": ("generate",)}
    return tuple(verb for verb, methods in needed.items() if all(hasattr(model, method) for method in methods))
