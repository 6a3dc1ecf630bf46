"""Builds what a recipe describes: its processor, and its model, new or from a trained one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from chiasm.adaptation.adapted import adapt, merged
from chiasm.adaptation.adapter import AdapterConfig
from chiasm.additions import ANY, allowing
from chiasm.config import dump, parse
from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.processor import Processor
from chiasm.data.source import Source
from chiasm.errors import CheckpointError, DataError, RecipeError
from chiasm.experiment.entries import deep_merge
from chiasm.experiment.recipe import PretrainedPart, Recipe, Start
from chiasm.models import folder as model_folder
from chiasm.models.model import Model, ModelConfig, suggest_part
from chiasm.training.optimiser import freeze
from chiasm.weights import load, packages

log = logging.getLogger(__name__)

_LEARNED_FROM = 4000  # the most samples on whose texts a tokenizer is trained


def build_model(recipe: Recipe) -> Model:
    """The recipe's model before training: its processor, its first weights, its pretrained parts; or a trained one."""
    if recipe.start is not None:
        model = _started(recipe.start, recipe.processor)
        torch.manual_seed(recipe.seed)  # dropout must not depend on what was drawn before, such as by a stage
        return model
    assert recipe.model is not None
    kind = recipe.model.model()
    processor = build_processor(recipe)
    torch.manual_seed(recipe.seed)
    model = kind(recipe.model, processor)
    model.check()
    for part, weights in recipe.pretrained.items():
        if isinstance(weights, PretrainedPart):
            _take_part(model, part, weights)
        else:
            packages.load_packaged(model, part, weights)
    return model


def _take_part(model: Model, name: str, chosen: PretrainedPart) -> None:
    """Copies a part of a trained model into a part of this one, which has the same tensors or fewer."""
    trained = merged(_opened(chosen.checkpoint, f"pretrained.{name}"))
    of_other = chosen.part or name
    for where, owner, part in (("", model, name), (".part", trained, of_other)):
        if part not in dict(owner.named_modules()):
            what = f"{chosen.checkpoint} has" if where else "the model has"
            raise RecipeError(f"pretrained.{name}{where}: {what} no part '{part}'{suggest_part(part, owner)}")
    target, given = model.get_submodule(name), trained.get_submodule(of_other).state_dict()
    # A first stage may have learned with more than the second needs, such as words beside queries.
    taken = {key: tensor for key, tensor in given.items() if key in target.state_dict()}
    if left := [key for key in given if key not in taken]:
        more = ", ..." if len(left) > 4 else ""
        names = ", ".join(left[:4]) + more
        log.warning("pretrained.%s: %d tensors of %s are left out: %s", name, len(left), chosen.checkpoint, names)
    model_folder.assign(target, taken, f"pretrained.{name}: {chosen.checkpoint}")


def build_processor(recipe: Recipe) -> Processor:
    """The recipe's processor; its tokenizer is learned from the training texts where the recipe says so.

    Where the recipe starts from a checkpoint, that model's, with the recipe's changes.
    """
    if recipe.start is not None:
        trained = _trainable(recipe.start).processor
        with allowing(ANY):
            return trained.changed(recipe.processor)
    assert recipe.model is not None
    kind = recipe.model.model().processor_type
    entries = deep_merge(recipe.model.processor_entries(), _with_packaged(recipe.processor, kind))
    with allowing(ANY):
        return kind.from_recipe(entries, training_texts(recipe.data.train))


def _started(start: Start, processor: Mapping[str, Any]) -> Model:
    """The model of a checkpoint with changed entries. Raises ChiasmError where they do not suit its weights."""
    trained = _trainable(start)
    config = _changed(trained.config, start)
    with allowing(ANY):
        changed = trained.processor.changed(processor)
    model = config.on_meta(changed).to_empty(device=trained.device)
    model.check()
    model_folder.assign(model, trained.state_dict(), f"start.model: {start.checkpoint}")
    return model


def _trainable(start: Start) -> Model:
    """The model to start from. Raises CapabilityError for one that can only run inference."""
    model = _opened(start.checkpoint, "start")
    model.require_own("trained")
    return merged(model)


def _opened(checkpoint: str, where: str) -> Model:
    """The model that an entry of a recipe names. Raises CheckpointError, saying which entry."""
    try:
        return load(checkpoint)
    except CheckpointError as error:
        how = "" if Path(checkpoint).exists() else "; where it is a run of yours, train that one first"
        raise CheckpointError(f"{where}.checkpoint: {error}{how}") from error


def model_config(recipe: Recipe) -> ModelConfig:
    """The recipe's model, or that of the checkpoint that it starts from, with the recipe's changes."""
    if recipe.start is not None:
        return _changed(_trainable(recipe.start).config, recipe.start)
    assert recipe.model is not None
    return recipe.model


def model_on_meta(
    config: ModelConfig, adapters: Mapping[str, AdapterConfig], processor: Processor | None = None
) -> Model:
    """A model with adapters on the meta device: shapes without weights. None of them depends on the processor.

    Raises RecipeError for adapters of parts or layers that the model has not, MissingExtra where they need a package.
    """
    return adapt(config.on_meta(processor), adapters)


def check_parts(config: ModelConfig, recipe: Recipe) -> None:
    """Raises ChiasmError where a recipe adapts, freezes or sets rates of what a model of this config has not."""
    freeze(model_on_meta(config, recipe.adapters), recipe.training)


def _changed(trained: ModelConfig, start: Start) -> ModelConfig:
    entries = dump(trained)
    key = trained.key
    if start.model.get(key, entries[key]) != entries[key]:
        raise RecipeError(f"start.model.{key}: {start.checkpoint} is of the family '{entries[key]}', which stays")
    return parse(ModelConfig, deep_merge(entries, dict(start.model)), "start.model")  # type: ignore[type-abstract]  # a subclass


def _with_packaged(entries: Mapping[str, Any], kind: type[Processor]) -> Mapping[str, Any]:
    """`tokenizer: {package: NAME}` names packaged weights; the file inside of them stands for it.

    With the tokenizer of a chat model come its template and special tokens; the recipe's own entries go first.
    """
    tokenizer = entries.get("tokenizer")
    if not isinstance(tokenizer, Mapping) or set(tokenizer) != {"package"}:
        return entries
    package = packages.choose(str(tokenizer["package"]), "processor.tokenizer.package")
    chats = package.chat_entries() if issubclass(kind, ChatProcessor) and hasattr(package, "chat_entries") else {}
    return {**chats, **entries, "tokenizer": {"file": package.tokenizer_file()}}


def training_texts(source: Source) -> Iterator[str]:
    """The texts of the training samples, evenly spread over the source; what cannot be read is passed over here, as
    the reader will count and name it."""
    stride = max(1, len(source) // _LEARNED_FROM)
    for index in range(0, len(source), stride):
        try:
            sample = source[index]
        except DataError:
            continue
        yield from sample.captions
        yield from (text.text for text in sample.texts)
