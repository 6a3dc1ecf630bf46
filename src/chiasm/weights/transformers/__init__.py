"""Checkpoints of Hugging Face's transformers, read and written without it.

A module here is a family, named as `model_type` in its `config.json`. It has MODEL, our class; TABLE, which says where
each tensor is stored; `load(folder)` and `save(model, folder)`. To add a family is to add its module.
It may have `rules(model)` in place of TABLE, and MODULES, where modules are called otherwise in memory than in files:
with these, adapters have the names of transformers too."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from chiasm.config import module_names
from chiasm.data.chat_processor import ChatProcessor
from chiasm.errors import CheckpointError
from chiasm.models.model import Model
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.mapping import AS_IS, Rule, links
from chiasm.weights.texts import TOKENIZERS as TOKENIZERS
from chiasm.weights.transformers._towers import WEIGHTS as WEIGHTS

SAFE = tuple(name for name in WEIGHTS if ".safetensors" in name)  # all that is read of a foreign model


class Family(Protocol):
    """The interface of a family's module."""

    MODEL: type[Model]

    def load(self, folder: CheckpointFolder) -> Model: ...

    def save(self, model: Model, folder: Path) -> None: ...


def load(folder: Path) -> Model:
    """The model of a transformers checkpoint, with its processor read from the same folder, in evaluation mode.

    Of a family that we do not have, as transformers computes it; see `chiasm.weights.foreign`.
    Raises CheckpointError for an architecture that nobody knows, a folder that lacks files, settings that we cannot
    follow to the letter, and weights of which a single tensor is missing, unexpected or misshapen.
    """
    return read(CheckpointFolder(folder))


def read(folder: CheckpointFolder) -> Model:
    """As `load`, of a folder that is open already."""
    name = _name(folder.settings)
    if name is None:
        raise CheckpointError(f"{folder / 'config.json'} has no model_type: it is not a checkpoint of transformers")
    if name not in module_names(__name__):
        from chiasm.weights import foreign

        return foreign.load(folder, module_names(__name__))
    return _family(name).load(folder)


def stored_as(folder: CheckpointFolder) -> tuple[str, ...]:
    """The files of weights that are read of a checkpoint whose settings are there, in order of preference.

    Raises CheckpointError for an architecture that nobody knows, whatever its weights.
    """
    name = _name(folder.entries("config.json"))
    if name is None or name in module_names(__name__):
        return WEIGHTS
    from chiasm.weights import foreign

    foreign.choose(folder, module_names(__name__))
    return SAFE


def save(model: Model, folder: Path) -> None:
    """Writes a checkpoint that transformers loads: weights, settings, tokenizer and image processor.

    Raises CheckpointError if transformers has no such model, or would compute something else from the same folder.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; name a folder to save the checkpoint in")
    attention = model.processor.settings.attention if isinstance(model.processor, ChatProcessor) else "causal"
    if attention != "causal":
        raise CheckpointError(
            f"processor.attention is {attention}, but a {type(model).__name__} is causal in transformers, and would "
            "answer otherwise"
        )
    for name in module_names(__name__):
        family = _family(name)
        if type(model) is family.MODEL:
            folder.mkdir(parents=True, exist_ok=True)
            family.save(model, folder)
            return
    raise CheckpointError(f"we cannot write a {type(model).__name__} for transformers; known: {module_names(__name__)}")


def linear_names(model: Model) -> dict[str, str]:
    """transformers' names of the linear layers of our model, by our names.

    Raises CheckpointError where it has no such model, or stores several of our layers as one.
    """
    families = map(_family, module_names(__name__))
    family = next((family for family in families if type(model) is family.MODEL), None)
    rules: Callable[[Model], tuple[Rule, ...]] | None = getattr(family, "rules", None)
    table = rules(model) if rules is not None else getattr(family, "TABLE", None)
    if family is None or table is None:
        raise CheckpointError(f"we cannot tell what transformers calls the layers of a {type(model).__name__}")
    modules = getattr(family, "MODULES", {})
    try:
        linked = links(table, model.state_dict())
    except ValueError as error:  # a table names every tensor of the models that transformers has
        raise CheckpointError(f"transformers has no such {type(model).__name__}: it names other tensors") from error
    found = {}
    for link in linked:
        if len(link.ours) == 1 and link.form is AS_IS and link.theirs.endswith(".weight"):
            theirs = link.theirs.removesuffix(".weight")
            prefix = next((prefix for prefix in modules if theirs.startswith(prefix)), "")
            found[link.ours[0].removesuffix(".weight")] = modules.get(prefix, "") + theirs.removeprefix(prefix)
    return found


def _name(settings: Mapping[str, Any]) -> str | None:
    """The name of the module for a `config.json`, which need not exist; None where there is no model_type."""
    kind = settings.get("model_type")
    return kind.replace("-", "_") if isinstance(kind, str) else None


def _family(name: str) -> Family:
    return cast("Family", importlib.import_module(f"{__name__}.{name}"))
