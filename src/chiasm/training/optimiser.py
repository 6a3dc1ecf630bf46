"""The optimiser and its schedule: which tensors learn, how fast, and what decays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from chiasm.errors import RecipeError
from chiasm.models.model import suggest_part
from chiasm.objectives.objective import Objective
from chiasm.training.layers import decaying, depths
from chiasm.training.learner import OBJECTIVE
from chiasm.training.muon import Muon
from chiasm.training.settings import PartSettings, Training


def freeze(model: nn.Module, settings: Training) -> None:
    """Freezes the parts that the recipe names, but for parts of them that it names and does not freeze.

    Raises RecipeError for a name that fits no part of the model, and for a part that is to learn, or to learn at a rate
    of its own, though the family never trains it.
    """
    modules = dict(model.named_modules())
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, part in sorted(
        settings.parts.items(), key=lambda entry: len(entry[0])
    ):  # a part of a part comes after it
        if name not in modules:
            raise RecipeError(f"training.parts.{name}: the model has no such part{suggest_part(name, model)}")
        held = [parameter for parameter, _ in modules[name].named_parameters(name)]
        if held and not part.frozen and not learning & set(held):
            raise RecipeError(
                f"training.parts.{name}: a {type(model).__name__} never trains this part, so nothing can be set for "
                "it; leave the entry out, adapt the part (adapters), or take another family"
            )
    for name, parameter in model.named_parameters():
        if _part_of(name, settings).frozen:
            parameter.requires_grad_(False)


class CombinedOptimizer(torch.optim.Optimizer):
    """Several optimisers as one, each over tensors of its own."""

    def __init__(self, optimisers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimisers = optimisers
        super().__init__([group for optimiser in optimisers for group in optimiser.param_groups], defaults={})
        self.param_groups = [
            group for optimiser in optimisers for group in optimiser.param_groups
        ]  # theirs, not copies
        for optimiser in optimisers:
            optimiser.state = self.state  # tensors do not overlap, so one table serves all

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # the loop has no closure to hand in
        assert closure is None
        for optimiser in self.optimisers:
            optimiser.step()


def build_optimiser(model: nn.Module, settings: Training, objective: Objective | None = None) -> torch.optim.Optimizer:
    """The recipe's optimiser over what is trainable, a group per rate and decay.

    What an objective owns learns by AdamW, as the recipe says or with settings of its own (`Objective.own_optimisers`).

    "adamw": AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101). "muon": Muon (Jordan et al. 2024) for the matrices of
    linear layers, its steps scaled to the size of AdamW's so that the same learning rate serves both (Liu et al. 2025,
    arXiv:2502.16982), and AdamW for the rest.
    Each group holds "peak", its highest learning rate, and "names", the tensors in it; those of an objective's own
    settings also "clip", their largest norm (inf leaves it).
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    own = _own_groups(objective, settings) if objective is not None else []
    if not trainable and not own:
        raise RecipeError("training.parts freezes the whole model; nothing is left to train")
    if settings.optimiser == "adamw":
        return _adamw([*_groups(model, trainable, settings), *own], settings)
    of_linears = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    matrices = {name: parameter for name, parameter in trainable.items() if id(parameter) in of_linears}
    rest = {name: parameter for name, parameter in trainable.items() if name not in matrices}
    others = [*_groups(model, rest, settings), *own]
    found: list[torch.optim.Optimizer] = [_adamw(others, settings)] if others else []
    if matrices:
        found.append(Muon(_groups(model, matrices, settings), adjust_lr_fn="match_rms_adamw"))
    return CombinedOptimizer(found)


def _adamw(groups: list[dict[str, Any]], settings: Training) -> torch.optim.AdamW:
    return torch.optim.AdamW(groups, betas=settings.betas, eps=settings.epsilon, fused=True)


def _groups(model: nn.Module, parameters: Mapping[str, nn.Parameter], settings: Training) -> list[dict[str, Any]]:
    groups: dict[tuple[float, float], dict[str, list[Any]]] = {}
    deep, weights = depths(model), decaying(model)
    for name, parameter in parameters.items():
        part = _part_of(name, settings)
        rate = settings.learning_rate if part.learning_rate is None else part.learning_rate
        decay = settings.weight_decay if part.weight_decay is None else part.weight_decay
        a_layer = settings.layer_decay if part.layer_decay is None else part.layer_decay
        key = rate * a_layer ** deep[name], decay if id(parameter) in weights else 0.0
        group = groups.setdefault(key, {"params": [], "names": []})
        group["params"].append(parameter)
        group["names"].append(name)
    return [{**group, "lr": rate, "peak": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]


def _own_groups(objective: Objective, settings: Training) -> list[dict[str, Any]]:
    """Groups of what an objective owns and trains, a group for each of its own settings, rate and decay."""
    apart, weights = objective.own_optimisers(), decaying(objective)
    if unknown := [part for part in apart if part not in dict(objective.named_modules())]:
        raise TypeError(f"{type(objective).__name__}.own_optimisers names '{unknown[0]}', which it does not own")
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for name, parameter in objective.named_parameters():
        if not parameter.requires_grad:
            continue
        part = max((part for part in apart if name.startswith(f"{part}.")), key=len, default="")
        own = apart.get(part)
        rate = own.learning_rate if own is not None else settings.learning_rate
        decay = own.weight_decay if own is not None else settings.weight_decay
        decay = decay if id(parameter) in weights else 0.0
        group: dict[str, Any] = {"params": [], "names": [], "lr": rate, "peak": rate, "weight_decay": decay}
        if own is not None:
            limit = own.clip_norm if own.clip_norm is not None else math.inf
            group |= {"betas": own.betas, "clip": limit, "part": part}
        group = groups.setdefault((part, decay), group)
        group["params"].append(parameter)
        group["names"].append(OBJECTIVE + name)
    return list(groups.values())


def set_learning_rate(optimiser: torch.optim.Optimizer, settings: Training, step: int) -> float:
    """Sets each group's rate for a step, counted from 0; returns the recipe's own rate at it."""
    share = schedule(settings, step)
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * share
    return settings.learning_rate * share


def schedule(settings: Training, step: int) -> float:
    """The learning rate at a step, as a share of its peak."""
    rise = round(settings.warmup * settings.steps)
    if step < rise:
        return (step + 1) / rise
    final = settings.final_learning_rate
    done = (step - rise) / max(1, settings.steps - rise)
    match settings.schedule:
        case "constant":
            return 1.0
        case "cosine":
            return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2
        case "linear":
            return final + (1 - final) * (1 - done)
        case "wsd":
            left = (settings.steps - step) / max(1.0, settings.decay * settings.steps)
            return final + (1 - final) * min(1.0, left)


def _part_of(name: str, settings: Training) -> PartSettings:
    entry = settings.part_of(name)
    return settings.parts[entry] if entry is not None else PartSettings()
