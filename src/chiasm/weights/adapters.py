"""Adapters in peft's format, under chiasm's names of modules or those of transformers."""

from __future__ import annotations

from pathlib import Path

from chiasm.adaptation import adapted, peft_adapter
from chiasm.adaptation.adapter import linear_layers
from chiasm.adaptation.peft_adapter import PeftAdapter
from chiasm.adaptation.tensors import tensors_of
from chiasm.errors import CheckpointError
from chiasm.models.model import Model
from chiasm.weights import transformers


def put_on(model: Model, folder: Path) -> Model:
    """Puts the adapters in a folder on to a model: those of a run, or one in peft's own format.

    Raises CheckpointError if there are none, or they belong to another model.
    """
    if (folder / "checkpoint").is_dir():  # the folder of a run
        folder = folder / "checkpoint"
    if model.adaptation is not None:
        raise CheckpointError("the model has adapters already; load its base, or merge them: chiasm merge")
    if (folder / adapted.FACTS).exists():
        return adapted.apply(model, folder)
    if not (folder / peft_adapter.CONFIG).exists() or not (folder / peft_adapter.TENSORS).exists():
        raise CheckpointError(f"{folder} holds no adapter: it has no {peft_adapter.CONFIG} with {peft_adapter.TENSORS}")
    stored = tensors_of(folder / peft_adapter.TENSORS)
    ours = linear_layers(model)
    if any(f".{name}." in key for key in stored for name in ours):
        return adapted.apply_peft(model, folder)
    theirs = transformers.linear_names(model)
    return adapted.apply_peft(model, folder, {theirs[name]: name for name in ours if name in theirs})


def save_for_transformers(model: Model, folder: Path, base: str) -> None:
    """Writes the adapters for peft on transformers' model, PART by PART where there are several.

    base: the folder or name of that model. Raises CheckpointError for layers that it stores otherwise, and for a model
    without adapters.
    """
    adaptation = model.adaptation
    if not isinstance(adaptation, adapted.Adaptation):
        raise CheckpointError("the model has no adapters; chiasm.load opens them from the run that learned them")
    exported = {part: adapter for part, adapter in adaptation.adapters.items() if isinstance(adapter, PeftAdapter)}
    if other := [part for part in adaptation.adapters if part not in exported]:
        kind = adaptation.configs[other[0]].chosen()
        raise CheckpointError(f"peft has no such adapter as '{kind}' in the part '{other[0]}'; keep the run's folder")
    names = transformers.linear_names(model.config.on_meta(model.processor))
    folder.mkdir(parents=True, exist_ok=True)
    for part, adapter in exported.items():
        adapter.export(folder / part if len(adaptation.adapters) > 1 else folder, base, names)
