"""A llama language model as transformers stores it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chiasm.models.language import Language
from chiasm.weights.transformers import _alone

MODEL = Language

save = _alone.save
rules = _alone.rules


def load(folder: Path, settings: dict[str, Any]) -> Language:
    """The model in a folder with that `config.json`, with its processor, in evaluation mode."""
    return _alone.load(folder, settings, "llama")
