"""Noise on every value of a peer, zeros and ones included.

Biases, norms, gates and layer scales begin as constants in most libraries. Two of them that are read in exchange, or
one that is not read at all, change nothing then: a comparison with such a peer passes on a broken mapping."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)

_LEAST = 1e-3  # by which values must differ, to be told apart in what is compared
_ENOUGH = 512  # values of a tensor that are looked at


def shaken(model: M, std: float = 0.1, seed: int = 1) -> M:
    """The model with noise on every parameter and on the statistics of its batch norms, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=std)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(torch.randn(buffer.shape, generator=generator), alpha=2 * std)
            if name.endswith("running_var"):
                buffer.mul_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return model.eval()


def unshaken(state: Mapping[str, Tensor]) -> list[str]:
    """What of a state a comparison would not see: "NAME: why", of constants and of tensors of one shape that agree."""
    floats = {name: one.detach().float() for name, one in state.items() if one.is_floating_point() and one.numel()}
    found, alike = [], defaultdict(list)
    for name, one in floats.items():
        if one.numel() == 1 and float(one) in (0.0, 1.0):
            found.append(f"{name}: {float(one):g}")
        elif one.numel() > 1 and float(one.max() - one.min()) < _LEAST:
            found.append(f"{name}: {float(one.flatten()[0]):g} throughout")
        alike[one.shape].append(name)
    for names in alike.values():
        values = torch.stack([floats[name].flatten()[:_ENOUGH] for name in names])
        near = torch.cdist(values, values, p=float("inf")) + torch.eye(len(names)) < _LEAST
        found += [f"{names[one]}: as {names[other]}" for one, other in near.triu().nonzero().tolist()]
    return found


def assert_shaken(state: Mapping[str, Tensor], whose: str) -> None:
    """Raises AssertionError that lists what of a state may be lost or exchanged unseen."""
    listed = unshaken(state)
    assert not listed, (
        f"{whose} has values that may be lost or exchanged without a trace: {', '.join(listed[:6])}; see "
        "tests/weights/shaking.py"
    )
