"""A qwen3 language model as transformers stores it."""

from __future__ import annotations

from chiasm.models.language import Language
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.transformers import _alone

MODEL = Language

save = _alone.save
rules = _alone.rules


def load(folder: CheckpointFolder) -> Language:
    """The model in a folder, with its processor, in evaluation mode."""
    return _alone.load(folder, "qwen3")
