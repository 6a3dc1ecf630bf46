"""Checkpoints of any kind become models: chiasm's own folders, and the foreign formats, one adapter each."""

from __future__ import annotations

import json
from pathlib import Path

from chiasm.errors import CheckpointError
from chiasm.models import folder as model_folder
from chiasm.models.model import Model


def load(folder: str | Path, device: str = "cpu") -> Model:
    """Opens a checkpoint folder: chiasm's own, or one in the layout of transformers or open_clip.

    open_clip's layout is taken where only its files are there. Raises CheckpointError if the folder is none of these,
    or incomplete.
    """
    path = Path(folder)
    file = path / model_folder.CONFIG
    if not path.is_dir():
        raise CheckpointError(f"there is no folder {path}; give the folder of a checkpoint")
    if not file.exists() and (path / "open_clip_config.json").exists():
        from chiasm.weights import open_clip

        return open_clip.load(path).to(device)
    if not file.exists():
        raise CheckpointError(f"{path} is not a checkpoint: it has no {model_folder.CONFIG}")
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON: {error}") from error
    if "family" in entries:
        return model_folder.load(path, device)
    if "model_type" in entries:
        from chiasm.weights import transformers

        return transformers.load(path).to(device)
    raise CheckpointError(f"{file} names neither a 'family' (chiasm) nor a 'model_type' (transformers)")
