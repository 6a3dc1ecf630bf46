"""The folder of a foreign checkpoint, opened once and handed to all that read from it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from torch import Tensor

from chiasm.data.tokenizer import load_backend
from chiasm.errors import CheckpointError
from chiasm.weights.files import read_json, read_json_if_present, read_shards, read_weights


class CheckpointFolder:
    """Settings, tokenizer and tensors of a folder in the layout of transformers or open_clip.

    Each file is read when it is first asked for, and no more than once. Tensors of safetensors and of torch's own files
    are mapped: a value is read from the disk when it is copied into a model. Errors name the folder, `str(folder)`, or
    one of its files, `folder / name`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, dict[str, Any]] = {}

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def holds(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return (self.path / name).is_file()

    @property
    def settings(self) -> dict[str, Any]:
        """The entries of `config.json`. Raises CheckpointError where there is none."""
        if "config.json" not in self._entries:
            self._entries["config.json"] = read_json(self / "config.json")
        return self._entries["config.json"]

    def entries(self, name: str) -> dict[str, Any]:
        """The mapping in a JSON file; an empty one where there is no such file."""
        if name not in self._entries:
            self._entries[name] = read_json_if_present(self / name)
        return self._entries[name]

    def required(self, name: str) -> dict[str, Any]:
        """The mapping in a JSON file. Raises CheckpointError where there is none."""
        return self.entries(name) if self.holds(name) else read_json(self / name)

    @property
    def is_open_clip(self) -> bool:
        """Whether the folder holds a checkpoint in open_clip's layout and in no other."""
        return self.holds("open_clip_config.json") and not self.entries("config.json").keys() & {"family", "model_type"}

    @cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer in `tokenizer.json`, which whoever changes it has to copy first.

        Raises CheckpointError where there is none.
        """
        return load_backend(self.path)

    def tensors(self, names: Sequence[str]) -> tuple[dict[str, Tensor], Path]:
        """All tensors by their names, and the file that they lie in: the first of `names` that the folder holds.

        A name ends in `.safetensors`, in `.bin` or `.pt` (read as tensors alone), or in `.index.json`, which lists
        shards. Whoever takes the tensors drops them when they are copied, so they are not kept here.
        Raises CheckpointError where none of these files is there, or one cannot be read.
        """
        name = next((name for name in names if self.holds(name)), None)
        if name is None:
            raise CheckpointError(f"{self} holds no weights; expected one of {', '.join(names)}")
        file = self / name
        if name.endswith(".index.json"):
            return read_shards(file, self.entries(name)), file
        return read_weights(file), file
