"""Checkpoints of any kind become models: chiasm's own folders, and the foreign formats, one adapter each."""

from __future__ import annotations

import json
from pathlib import Path

from chiasm.errors import CheckpointError
from chiasm.models import folder as model_folder
from chiasm.models.model import Model
from chiasm.nn.device import choose_device


def load(folder: str | Path, device: str = "cpu") -> Model:
    """Opens a run's folder, or that of a checkpoint: chiasm's own, or one in the layout of transformers or open_clip.

    open_clip's layout is taken where only its files are there. Raises CheckpointError if the folder is none of these,
    or incomplete.
    """
    path, where = Path(folder), choose_device(device)
    if (path / "checkpoint").is_dir():  # the folder of a run
        path = path / "checkpoint"
    file = path / model_folder.CONFIG
    if not path.is_dir():
        raise CheckpointError(f"there is no folder {path}; give the folder of a checkpoint")
    if not file.exists() and (path / "open_clip_config.json").exists():
        from chiasm.weights import open_clip

        return open_clip.load(path).to(where)
    if not file.exists() and (path / "recipe.yaml").exists():
        raise CheckpointError(
            f"the run in {path} is not finished; go on with it: chiasm train RECIPE --out {path} --resume"
        )
    if not file.exists():
        raise CheckpointError(f"{path} is not a checkpoint: it has no {model_folder.CONFIG}")
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON: {error}") from error
    if not isinstance(entries, dict):
        raise CheckpointError(f"{file} is damaged: it holds no entries")
    if "family" in entries:
        return model_folder.load(path, device)
    if "model_type" in entries:
        from chiasm.weights import transformers

        return transformers.load(path).to(where)
    raise CheckpointError(f"{file} names neither a 'family' (chiasm) nor a 'model_type' (transformers)")
