"""Base classes of adapters: chosen in a recipe, put into a part of a model, saved, loaded, merged where possible."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor, nn

from chiasm.config import Component, suggest
from chiasm.errors import RecipeError

Quantised = Literal["nf4", "int8"]


@dataclass(frozen=True)
class AdapterConfig(Component, ABC, package="chiasm.adaptation.adapters", key="adapter"):
    """A recipe's choice of an adapter: a part of a model is frozen, and few new tensors learn instead.

    quantise: keeps the frozen linear layers of the part in 4 or 8 bits, a quarter to an eighth of their memory
        (QLoRA, Dettmers et al. 2023, arXiv:2305.14314).
    mergeable: whether what was learned can be added to the part's own weights, so that nothing of the adapter is left.
    """

    mergeable: ClassVar[bool] = True

    quantise: Quantised | None = None

    @abstractmethod
    def check(self, part: nn.Module, where: str) -> None:
        """Raises RecipeError for a part that this adapter cannot be put into. where: its entry in the recipe."""

    @abstractmethod
    def put_into(self, model: nn.Module, part: str) -> Adapter:
        """Adds the adapter to a part of the model, in place: the part's own tensors are frozen, the new ones learn."""


class Adapter(ABC):
    """An adapter that is in a part of a model.

    part: the part's name, "" for the whole model. names: the adapter's tensors as the model's state calls them: those
    that learn, and those that follow from a seed.
    """

    part: str
    names: frozenset[str]

    @abstractmethod
    def write(self, model: nn.Module, folder: Path, base: str) -> None:
        """Writes its tensors into a folder of its own. base: what `chiasm.load` opens for the model without it."""

    @abstractmethod
    def read(self, model: nn.Module, folder: Path) -> dict[str, Tensor]:
        """What `write` has written, by the names of the model's state. Raises CheckpointError for what is missing."""

    @abstractmethod
    def merge(self, state: Mapping[str, Tensor], plain: nn.Module) -> None:
        """Adds what was learned to the weights of a model without adapters. state: of the model that has this one.

        Raises CapabilityError where there are no weights that would compute the same.
        """


def linear_layers(part: nn.Module) -> list[str]:
    """Names of the linear layers whose output is computed by calling them; a head's weight is read directly."""
    heads = {name for name, module in part.named_modules() if hasattr(module, "head_weight")}
    left_out = {f"{name}.head".lstrip(".") for name in heads}
    return [
        name for name, module in part.named_modules() if isinstance(module, nn.Linear) and name and name not in left_out
    ]


def chosen_layers(part: nn.Module, targets: str | Sequence[str], where: str) -> list[str]:
    """The linear layers of a part that are meant. Raises RecipeError for a name that fits none of them."""
    layers = linear_layers(part)
    if not layers:
        raise RecipeError(f"{where}: the part has no linear layers inside of it; name a larger part, or let it learn")
    if isinstance(targets, str):
        return layers
    if not targets:
        raise RecipeError(f"{where}.targets: name at least one linear layer, or take all-linear")
    for target in targets:
        if not any(_fits(name, target) for name in layers):
            raise RecipeError(
                f"{where}.targets: no linear layer is called '{target}'"
                + suggest(target, {name.rpartition(".")[2] for name in layers})
            )
    return [name for name in layers if any(_fits(name, target) for target in targets)]


def _fits(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
