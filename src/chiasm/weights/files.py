"""The files of foreign checkpoints: settings as JSON, tensors as safetensors. Nothing in them is ever run."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from chiasm.config import dump, parse
from chiasm.errors import CheckpointError, RecipeError
from chiasm.models.tensor_file import save_file

T = TypeVar("T")

TORCHSCRIPT = (
    "{file} is an archive of TorchScript, as OpenAI's own .pt files are: it holds a program, which is never run here; "
    "take the same weights as safetensors, for instance chiasm.load('openai/clip-vit-base-patch32')"
)


def read_json(file: Path) -> dict[str, Any]:
    """The mapping in a JSON file. Raises CheckpointError where there is none."""
    if not file.exists():
        raise CheckpointError(f"{file.parent} has no {file.name}: it is not a whole checkpoint")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} does not hold a mapping but {type(content).__name__}")
    return content


def read_json_if_present(file: Path) -> dict[str, Any]:
    """The mapping in a JSON file; an empty one where there is no such file."""
    return read_json(file) if file.exists() else {}


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Writes a mapping as indented JSON."""
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_section(defaults: T, entries: Mapping[str, Any], where: str) -> T:
    """A dataclass of the settings that we know, with the given ones laid over the defaults.

    where: the section's name in errors. Raises CheckpointError for a value of a wrong kind.
    """
    known = dump(defaults)
    try:
        return parse(type(defaults), known | {key: entries[key] for key in known if key in entries}, where)
    except RecipeError as error:
        raise CheckpointError(f"{error}") from error


def read_shards(index: Path, entries: Mapping[str, Any]) -> dict[str, Tensor]:
    """All tensors of the shards that an index file names. entries: the index's content.

    Raises CheckpointError where a shard is missing, cannot be read, or lacks a tensor that the index says it holds.
    """
    owners: Mapping[str, str] = entries.get("weight_map", {})
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(owners.values())):
        file = index.parent / shard
        if file.parent != index.parent or not file.exists():
            raise CheckpointError(f"{index} names the shard {shard}, which is not there; the download is incomplete")
        tensors |= read_weights(file)
    if lost := sorted(owners.keys() - tensors.keys()):
        raise CheckpointError(f"{index} names tensors that its shards do not hold: {', '.join(lost)}")
    return tensors


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of one that `torch.save` wrote, which is read as tensors alone.

    They are mapped from the file where its format allows. Raises CheckpointError for a file that cannot be read.
    """
    reader: Callable[[Path], Any] = _read_safetensors if file.suffix == ".safetensors" else _read_torch
    return reader(file)


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file, marked as PyTorch's, which transformers insists on."""
    save_file(tensors, file, metadata={"format": "pt"})


def is_torchscript(file: Path) -> bool:
    """Whether a file is an archive of TorchScript, which holds a program."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any("/code/" in f"/{name}" for name in archive.namelist())


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(file)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{file} is not a safetensors file that can be read: {error}") from error


def _read_torch(file: Path) -> dict[str, Tensor]:
    """The tensors of a file of `torch.save`: by name at its top, or in a training checkpoint's `state_dict`."""
    if is_torchscript(file):
        raise CheckpointError(TORCHSCRIPT.format(file=file))
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{file} is not a checkpoint of tensors alone: {error}") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{file} does not hold tensors by name")
    return state
