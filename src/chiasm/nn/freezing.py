"""Frozen parts of a module: those of which no parameter learns."""

from __future__ import annotations

from torch import nn


def keep_frozen_in_eval(module: nn.Module) -> None:
    """Puts every part of which no parameter learns into eval mode: its dropout and batch statistics are not ours."""
    for part in module.modules():
        parameters = list(part.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            nn.Module.train(part, False)
