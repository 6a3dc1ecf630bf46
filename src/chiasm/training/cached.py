"""Batches larger than memory for losses that compare samples: GradCache (Gao et al. 2021, arXiv:2101.06983).

The features of all parts are computed without a graph, the loss and its gradient by the features on all of them at
once, then each part again with its graph, through which its rows of that gradient flow on. Loss and gradients are those
of the whole batch, for one more forward pass. What a layer takes from the samples of its part (batch norm) stays a
matter of the part, as in every accumulation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from chiasm.data.batch import Batch

# Calls a function of the model whose backward pass shares gradients between processes, such as DDP's forward.
Call = Callable[..., Any]
Compute = Callable[[Batch], dict[str, Tensor]]


class Contrastive(Protocol):
    """A model whose losses compare samples: a ContrastiveModel, or a model with an objective that does."""

    @property
    def compares_by_layers(self) -> bool: ...

    @property
    def device(self) -> torch.device: ...

    def features(self, batch: Batch) -> dict[str, Tensor]: ...

    def losses_of(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]: ...


def cached_losses(
    model: Contrastive,
    parts: Sequence[Batch],
    total: Callable[[Mapping[str, Tensor]], Tensor],
    *,
    features: Compute | None = None,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
    call: Call = lambda function, *given: function(*given),
    local: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> dict[str, Tensor]:
    """The losses of all parts as one batch, without their graph; the gradients are added to those of the parameters.

    total: what the gradient is of. features: the model's own, or a compiled form of them. autocast: a context for
    every forward pass. scale: of the loss, for float16.
    call, local: where processes share the work, how a function is run whose gradients are shared, and the context in
    which they are not yet, because another part follows.
    """
    compute = _in_context(features or model.features, model.device, autocast)
    cached, random = _features(model, parts, partial(call, compute))
    whole = {name: torch.cat([features[name] for features in cached]) for name in cached[0]}
    leaves = {name: rows.requires_grad_() for name, rows in whole.items() if rows.is_floating_point()}
    with autocast():
        losses = model.losses_of(whole)
    direct = [
        parameter
        for parameter in model.parameters()
        if parameter.requires_grad and (parameter.ndim == 0 or model.compares_by_layers)
    ]
    slopes = torch.autograd.grad(scale(total(losses)), [*leaves.values(), *direct], allow_unused=True)
    of_rows = dict(zip(leaves, slopes, strict=False))
    of_parts = [
        torch.split(rows, [len(features[name]) for features in cached])
        if (rows := of_rows.get(name)) is not None
        else None
        for name in whole
    ]
    after = _random_state(model.device)
    for at, part in enumerate(parts):
        last = at == len(parts) - 1
        of_direct = list(zip(direct, slopes[len(leaves) :], strict=True)) if last else []
        with nullcontext() if last else local():
            _set_random_state(random[at], model.device)
            mine = [rows[at] if rows is not None else None for rows in of_parts]
            torch.autograd.backward(call(_surrogate, compute, part, mine, of_direct))
    _set_random_state(after, model.device)
    return {name: loss.detach() for name, loss in losses.items()}


def _in_context(
    features: Compute, device: torch.device, autocast: Callable[[], AbstractContextManager[object]]
) -> Compute:
    def compute(part: Batch) -> dict[str, Tensor]:
        with autocast():
            return features(part.to(device))

    return compute


def _features(
    model: Contrastive, parts: Sequence[Batch], compute: Compute
) -> tuple[list[dict[str, Tensor]], list[list[Tensor]]]:
    """The features of each part, and the state of the random numbers before each."""
    random, cached = [], []
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        for part in parts:
            random.append(_random_state(model.device))
            cached.append(compute(part))
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])  # running means have not seen these samples yet
    return cached, random


def _surrogate(
    compute: Compute,
    part: Batch,
    slopes: Sequence[Tensor | None],
    direct: Sequence[tuple[Tensor, Tensor | None]],
) -> Tensor:
    """A scalar whose gradient is that of the loss: features times their gradients, and scalars likewise.

    direct: parameters that the losses use beside the features; they go the same way, so that all gradients come out of
    one kind of backward pass.
    """
    terms = [*zip(compute(part).values(), slopes, strict=True), *direct]
    return torch.stack([(value * slope).sum() for value, slope in terms if slope is not None]).sum()


def _random_state(device: torch.device) -> list[Tensor]:
    """The states of the random numbers of the CPU, and of the GPU where the model is on one."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_state(state: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    for of_gpu in state[1:]:
        torch.cuda.set_rng_state(of_gpu, device)
