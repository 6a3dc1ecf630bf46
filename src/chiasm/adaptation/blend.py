"""Linear interpolation of the weights of two models of one shape: WiSE-FT (Wortsman et al. 2021, arXiv:2109.01903).

A fine-tuned model and the one that it began from lie in one basin of the loss; models between them keep much of what
was learned and most of what would be forgotten."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from chiasm.adaptation.adapted import merged
from chiasm.config import dump
from chiasm.errors import CheckpointError, RecipeError
from chiasm.models.folder import assign
from chiasm.models.model import Model


def blend(first: Model, second: Model, alpha: float) -> Model:
    """A third model with the weights (1 - alpha) * first + alpha * second; the two stay as they are.

    alpha: 0 to 1; at 0 and 1 the weights are those of `first` and `second`, bit for bit. Computed in float32 at least.
    Averages that norms have counted are blended like weights; what is no number with a fraction, such as a count of
    batches, is taken from the nearer model. The processor is the second's.
    Raises RecipeError for an alpha outside of 0 to 1, CheckpointError where the models are not of one shape or are
    given different pixels or tokens; CapabilityError for models that transformers computes, and for those with
    adapters that cannot be merged into their weights, as others are first.
    """
    if not 0 <= alpha <= 1:
        raise RecipeError(f"alpha is the share of the second model, 0 to 1, not {alpha:g}")
    for model in (first, second):
        model.require_own("blended")
    first, second = merged(first), merged(second)
    if problems := [*_unlike_configs(first, second), *_unlike_inputs(first, second)]:
        raise CheckpointError(f"the two models cannot be blended: {'; '.join(problems)}")
    ours, theirs = first.state_dict(), second.state_dict()
    _check_shapes(ours, theirs)
    blended = second.config.on_meta(second.processor).to_empty(device=second.device)
    assign(blended, {name: _between(ours[name].to(theirs[name].device), theirs[name], alpha) for name in theirs}, "it")
    return blended.eval()


def _between(ours: Tensor, theirs: Tensor, alpha: float) -> Tensor:
    if alpha in (0, 1) or not theirs.is_floating_point():
        return theirs if alpha >= 0.5 else ours
    wide = torch.promote_types(theirs.dtype, torch.float32)
    return torch.lerp(ours.to(wide), theirs.to(wide), alpha).to(theirs.dtype)


def _check_shapes(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in (ours, theirs)]
    if odd := sorted(
        name for name in shapes[0].keys() | shapes[1].keys() if shapes[0].get(name) != shapes[1].get(name)
    ):
        first, second = (shape.get(odd[0], "missing") for shape in shapes)
        raise CheckpointError(f"the two models cannot be blended: {odd[0]} is {first} in one, {second} in the other")


def _unlike_configs(first: Model, second: Model) -> Iterator[str]:
    """Entries in which the configs differ, but for those that matter in training alone."""
    ours, theirs = dump(first.config), dump(second.config)
    free = second.config.only_in_training
    for name in sorted((ours.keys() | theirs.keys()) - free):
        if ours.get(name) != theirs.get(name):
            yield f"their configs differ in {name}: {_short(ours.get(name))} and {_short(theirs.get(name))}"


def _unlike_inputs(first: Model, second: Model) -> Iterator[str]:
    """Files in which the saved processors differ; augmentation does not count, as it matters in training alone."""
    ours, theirs = _files(first), _files(second)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            yield f"they are given different input: their {name} differ"


def _files(model: Model) -> dict[str, object]:
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        model.processor.save(Path(folder))
        for file in Path(folder).rglob("*"):
            if file.is_file():
                content = file.read_bytes()
                found[file.relative_to(folder).as_posix()] = (
                    _without_augment(json.loads(content)) if file.suffix == ".json" else content
                )
    return found


def _without_augment(entries: object) -> object:
    if isinstance(entries, dict):
        return {key: _without_augment(entry) for key, entry in entries.items() if key != "augment"}
    return entries


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"
