"""Checkpoints from which a run goes on to the same bits: a model folder, and beside it all else that the run is.

step-000500/   model.safetensors, config.json, processor/, recipe.yaml
               training.safetensors (optimiser, average, random numbers)   training.json (step, data position)"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from chiasm.errors import CheckpointError
from chiasm.models import folder as model_folder
from chiasm.models.model import Model

_TENSORS, _FACTS = "training.safetensors", "training.json"


@dataclass
class Progress:
    """How far a run has come. position: samples of the data handed out. seconds: spent training, over all sittings."""

    step: int = 0
    position: int = 0
    seconds: float = 0.0
    skipped_steps: int = 0
    samples_seen: int = 0
    samples_skipped: int = 0


class Checkpoints:
    """The checkpoints of one run, the newest `keep` of them."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, oldest first; what a kill left half-written does not count."""
        found = [path for path in self.folder.glob("step-*") if path.suffix == "" and (path / _FACTS).exists()]
        return sorted(int(path.name.removeprefix("step-")) for path in found)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def save(
        self,
        model: Model,
        optimiser: torch.optim.Optimizer,
        progress: Progress,
        *,
        recipe: str,
        average: dict[str, Tensor] | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> Path:
        """Written aside and renamed. Raises CheckpointError, keeping the older ones, if the disk does not take it."""
        path = self.path(progress.step)
        aside = path.with_name(path.name + ".new")
        try:
            shutil.rmtree(aside, ignore_errors=True)
            model_folder.write(model, aside, recipe, card="")
            save_file(_training_tensors(optimiser, average), aside / _TENSORS)
            facts = {**asdict(progress), "scaler": scaler.state_dict() if scaler is not None else {}}
            (aside / _FACTS).write_text(json.dumps(facts) + "\n")
            model_folder.replace(aside, path)
        except (OSError, SafetensorError) as error:  # safetensors tells of a full disk in its own words
            shutil.rmtree(aside, ignore_errors=True)
            told = getattr(error, "strerror", None) or error
            raise CheckpointError(f"cannot write the checkpoint {path}: {told}; older checkpoints are kept") from error
        for step in self.steps()[: -self.keep]:
            shutil.rmtree(self.path(step))
        return path

    def restore(
        self,
        step: int,
        model: Model,
        optimiser: torch.optim.Optimizer,
        *,
        average: dict[str, Tensor] | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> Progress:
        """Puts a run back to where it was, random numbers included."""
        path = self.path(step)
        model_folder.load_weights(model, path / model_folder.WEIGHTS)
        try:
            tensors = load_file(path / _TENSORS)
            facts = json.loads((path / _FACTS).read_text())
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(
                f"the checkpoint {path} cannot be read: {error}; remove it to go on from the one before"
            ) from error
        _restore_optimiser(optimiser, tensors)
        for name, tensor in (average or {}).items():
            tensor.copy_(tensors[f"average/{name}"])
        torch.set_rng_state(tensors["random/cpu"])
        if "random/cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random/cuda"])
        if scaler is not None and facts["scaler"]:
            scaler.load_state_dict(facts["scaler"])
        facts.pop("scaler")
        return Progress(**facts)


def _training_tensors(optimiser: torch.optim.Optimizer, average: dict[str, Tensor] | None) -> dict[str, Tensor]:
    tensors = {"random/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    for name, parameter in _named(optimiser):
        for key, value in optimiser.state[parameter].items():
            tensors[f"optimiser/{name}/{key}"] = value.contiguous()
    return tensors | {f"average/{name}": tensor for name, tensor in (average or {}).items()}


def _restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    for name, parameter in _named(optimiser):
        prefix = f"optimiser/{name}/"
        state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if not state:
            continue  # no gradient ever reached it; the loop told so after the first step
        optimiser.state[parameter] = {key: value.to(parameter.device) for key, value in state.items()}


def _named(optimiser: torch.optim.Optimizer) -> list[tuple[str, Tensor]]:
    return [pair for group in optimiser.param_groups for pair in zip(group["names"], group["params"], strict=True)]
