"""Layers whose inner values are computed again in the backward pass instead of kept (Chen et al. 2016,
arXiv:1604.06174): memory for one more forward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

P = ParamSpec("P")
L = TypeVar("L", bound="Recomputable")


class Recomputable(nn.Module):
    """A layer of a stack, with its `forward` under `recomputed`."""

    recompute: bool = False


def recomputed(forward: Callable[Concatenate[L, P], Tensor]) -> Callable[Concatenate[L, P], Tensor]:
    """A forward of which, where the layer's `recompute` is set and gradients are wanted, only the input is kept.

    Inside of the layer's call, not around it: what hooks on to a layer (sharding gathers its weights so) comes once
    before each of the two computations. Random numbers repeat.
    """

    @functools.wraps(forward)
    def run(self: L, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            kept: Tensor = checkpoint(functools.partial(forward, self, **kwargs), *args, use_reentrant=False)
            return kept
        return forward(self, *args, **kwargs)

    return run


def recompute_layers(model: nn.Module) -> int:
    """Sets every such layer of the model to be computed again; returns how many there are."""
    layers = [module for module in model.modules() if isinstance(module, Recomputable)]
    for layer in layers:
        layer.recompute = True
    return len(layers)
