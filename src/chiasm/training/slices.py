"""Tensors that several ranks hold rows of, in safetensors: each rank writes its rows, any number of ranks reads them.

The files are those of torch.distributed.checkpoint's safetensors format (`HuggingFaceStorageWriter` with
`save_distributed`): a header entry tells where the rows of each tensor stand in the whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor

from chiasm.models.tensor_file import save_file
from chiasm.training.parallel import first_row, local

_HEADER, _OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"


def write_slices(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Writes the rows that this rank holds of each tensor."""
    rows = {name: local(tensor).detach().contiguous() for name, tensor in tensors.items()}
    offsets = {
        name: {_OFFSETS: [first_row(tensor), *[0] * (tensor.ndim - 1)][: tensor.ndim]}
        for name, tensor in tensors.items()
    }
    save_file(rows, file, metadata={"format": "pt", "DCP_VERSION": "1.0", _HEADER: json.dumps(offsets)})


class Slices:
    """Tensors by name out of files that hold rows of them; only what is asked for is read."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.files: list[Any] = [safe_open(file, framework="pt") for file in files]
        self.parts: dict[str, list[tuple[int, Any]]] = {}  # first row, and the file that holds the rows from it on
        for file in self.files:
            offsets = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
            for name in file.keys():  # noqa: SIM118  # it is no mapping
                first = offsets[name][_OFFSETS][:1] if name in offsets else []
                self.parts.setdefault(name, []).append((first[0] if first else 0, file))
        for spans in self.parts.values():
            spans.sort(key=lambda span: span[0])

    def __contains__(self, name: str) -> bool:
        return name in self.parts

    def like(self, name: str, model: Tensor) -> Tensor:
        """The tensor as this rank holds `model`: on its device, and sliced as it is where their shapes agree."""
        if not isinstance(model, DTensor) or self.shape(name) != model.shape:
            return self.rows(name).to(model.device)
        first = first_row(model)
        rows = self.rows(name, first, first + len(local(model))).to(model.device)
        return DTensor.from_local(rows, model.device_mesh, model.placements, shape=model.shape, stride=model.stride())

    def shape(self, name: str) -> torch.Size:
        """The shape of the whole tensor."""
        first, file = self.parts[name][-1]
        shape = file.get_slice(name).get_shape()
        return torch.Size([first + shape[0], *shape[1:]] if shape else [])

    def rows(self, name: str, first: int = 0, last: int | None = None) -> Tensor:
        """The rows from `first` up to but not including `last`; a scalar as it is."""
        (_, file), *_ = self.parts[name]
        if not self.shape(name):
            return file.get_tensor(name)
        last = self.shape(name)[0] if last is None else last
        parts: list[Tensor] = []
        for start, file in self.parts[name]:
            piece = file.get_slice(name)
            low, high = max(first - start, 0), min(last - start, piece.get_shape()[0])
            if low < high or not parts:
                parts.append(piece[low : max(low, high)])
        return torch.cat(parts)
