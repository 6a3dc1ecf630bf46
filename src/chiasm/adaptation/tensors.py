"""Tensors of a model by name: read from files, copied into it, and the fingerprint of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from chiasm.errors import CheckpointError


def fingerprint_of(state: Mapping[str, Tensor]) -> str:
    """A hash of a model's weights: of names, shapes, and up to 64 values of each tensor, evenly spread.

    A model on the meta device has no weights, and the fingerprint "".
    """
    if any(tensor.is_meta for tensor in state.values()):
        return ""
    found = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        flat = tensor.detach().flatten()
        some = flat[:: max(1, len(flat) // 64)][:64].float().cpu()
        found.update(f"{name} {tuple(tensor.shape)} ".encode() + some.numpy().tobytes())
    return found.hexdigest()[:32]


@torch.no_grad()
def put(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies tensors into a model by name; it has more than these. Raises CheckpointError for another shape."""
    state = model.state_dict()
    for name, tensor in tensors.items():
        if state[name].shape != tensor.shape:
            raise CheckpointError(f"{name} is {tuple(tensor.shape)}, but the model's is {tuple(state[name].shape)}")
        state[name].copy_(tensor)


def tensors_of(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises CheckpointError where it cannot be read."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def dotted(part: str, name: str) -> str:
    """The name in the whole model of a tensor or module that has this name in a part."""
    return f"{part}.{name}" if part else name
