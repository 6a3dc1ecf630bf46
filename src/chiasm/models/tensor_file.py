"""Safetensors files with the rights that every other file has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import torch as safetensors
from torch import Tensor


def save_file(tensors: Mapping[str, Tensor], file: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file, readable to whom the umask allows; safetensors itself keeps it to its owner."""
    file.touch()
    rights = file.stat().st_mode & 0o777
    safetensors.save_file(dict(tensors), file, metadata=None if metadata is None else dict(metadata))
    file.chmod(rights)
