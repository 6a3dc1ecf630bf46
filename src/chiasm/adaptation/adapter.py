"""A recipe's choice of how a part of a model is adapted, and the linear layers of the part that it concerns."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from torch import nn

from chiasm.config import Component, suggest
from chiasm.errors import MissingExtra, RecipeError

Quantised = Literal["nf4", "int8"]


@dataclass(frozen=True)
class AdapterConfig(Component, ABC, package="chiasm.adaptation.adapters", key="adapter"):
    """What all adapters have in common.

    targets: linear layers by the end of their names in the part, such as `[q, v]` or `[attention.q]`; "all-linear" is
        every linear layer, but for the head over the vocabulary.
    quantise: keeps the frozen linear layers of the part in 4 or 8 bits, a quarter to an eighth of their memory
        (QLoRA, Dettmers et al. 2023, arXiv:2305.14314).
    """

    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    quantise: Quantised | None = None

    @abstractmethod
    def for_peft(self, targets: list[str]) -> Any:
        """peft's own config, for linear layers of these names."""


def require_peft() -> ModuleType:
    """The package peft. Raises MissingExtra where it is not installed."""
    quieten_bitsandbytes()
    try:
        import peft
    except ImportError as error:
        raise MissingExtra("peft", "adapters", "adapting a model") from error
    return peft


def quieten_bitsandbytes() -> None:
    """bitsandbytes, which peft imports where it is there, logs that it got no faster kernels from a hub: no news."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@contextmanager
def refusals(where: str) -> Iterator[None]:
    """Turns what peft says of settings that it cannot take into a RecipeError."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{where}: peft refuses it: {' '.join(str(error).split())}") from error


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
