"""What a model offers: named losses to the loop, and those of the three verbs that it can: embed, score, generate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from chiasm.config import Component, suggest
from chiasm.data.batch import Batch
from chiasm.data.image import Image
from chiasm.data.processor import Processor
from chiasm.data.sample import Sample
from chiasm.errors import CapabilityError, RecipeError
from chiasm.nn.freezing import keep_frozen_in_eval


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

    def described(self) -> str:
        """The adapters in words, part by part."""


class CachingProcessor(Processor):
    """A processor whose batches hold features of frozen towers, computed once and kept on disk."""

    @abstractmethod
    def fill(self, samples: Iterable[Sample], console: Console) -> None:
        """Computes the features of these samples that are not there yet; can be stopped and repeated."""


class Model(nn.Module, ABC):
    """A vision-language model.

    A family is one file in `chiasm/models/` with a Config, the published SIZES, and one subclass. `config` and
    `processor` travel with the weights; `processor_type` reads the latter back. `adaptation`: the adapters in it.
    """

    processor_type: type[Processor]
    adaptation: Adapting | None = None

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

    @property
    def needs_images(self) -> bool:
        """Whether no gradient flows from a batch without images, for all else is frozen; see `Batch.dummy_images`."""
        return False

    def require_own(self, action: str) -> None:
        """Raises CapabilityError for a model that can only be asked. action: what was to be done, such as "blended"."""

    def expected_zero_grad(self) -> frozenset[str]:
        """Names of parameters whose gradient is zero at initialisation by design, such as those behind a zero gate."""
        return frozenset()

    def caching_processor(self, folder: Path, frozen: Collection[str]) -> CachingProcessor:  # noqa: ARG002  # a default
        """The processor that takes outputs of the frozen parts from a folder. frozen: names of the model's parts.

        Raises RecipeError where no output of these parts can be kept.
        """
        raise RecipeError(
            "data.features keeps the outputs of frozen towers; freeze one or both with "
            "training.parts: {vision: {frozen: true}, text: {frozen: true}}"
        )

    def part_outputs(self, batch: Batch) -> Iterable[Tensor]:  # noqa: ARG002  # a default
        """What the large parts of a model on the meta device make of a batch, from which memory is foretold.

        What joins the parts may look at numbers, so it is left out. Empty for a model that does not say.
        """
        return ()

    def logit_scale_and_bias(self) -> tuple[float, float | None]:
        """(scale, bias) that make logits of the similarities of `embed_*`; without a bias, texts compete by softmax.

        Raises CapabilityError for a model that has learned neither.
        """
        raise CapabilityError("this model has learned no temperature, so it has no probabilities for names")

    @property
    def frozen_parts(self) -> frozenset[str]:
        """Names of its immediate parts that have parameters of which none learns."""
        parameters = {name: list(part.parameters()) for name, part in self.named_children()}
        return frozenset(
            name for name, held in parameters.items() if held and not any(tensor.requires_grad for tensor in held)
        )

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def train(self, mode: bool = True) -> Any:
        """Parts of which no parameter learns stay in eval mode, for their dropout and batch statistics are not ours."""
        super().train(mode)
        if mode:
            keep_frozen_in_eval(self)
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
class TokenEmbedder(Protocol):
    """A model that has a feature for each place of an image and each token of a text, before pooling."""

    def embed_image_tokens(self, images: Sequence[Image]) -> Tensor:
        """(N, P, D) on the CPU."""

    def embed_text_tokens(self, texts: Sequence[str]) -> Tensor:
        """(N, T, D) on the CPU, up to the context, zero after the last token of each text."""

    def text_token_counts(self, texts: Sequence[str]) -> list[int]:
        """How many of its T rows belong to each text."""


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
