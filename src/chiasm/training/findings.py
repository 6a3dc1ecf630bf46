"""Checks of a run on itself: trainable tensors without a gradient, and steps that are not finite."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path

from torch import Tensor, nn

from chiasm.data.batch import Batch
from chiasm.models.tensor_file import save_file
from chiasm.training.distributed import Ranks
from chiasm.training.learner import Learner
from chiasm.training.parallel import local


def dead_tensors(learner: Learner, ranks: Ranks) -> list[str]:
    """Names of the trainable tensors whose gradient is missing or zero on every rank, and not by design."""
    trainable = dict(learner.trainable())
    alive = [parameter.grad is not None and bool(local(parameter.grad).any()) for parameter in trainable.values()]
    reached = ranks.gather(alive).any(0).tolist()
    expected = learner.objective.expected_zero_grad(learner.model)
    return [
        name for name, is_reached in zip(trainable, reached, strict=True) if not is_reached and name not in expected
    ]


def write_nonfinite(
    folder: Path,
    step: int,
    model: nn.Module,
    batch: Batch,
    losses: Mapping[str, float],
    norm: float,
    ranks: Ranks,
) -> Path:
    """Writes what the step was made of: facts as JSON, the batch's tensors beside it as safetensors; each rank its own.

    Returns the JSON file; with several ranks a pattern that fits those of all.
    """
    stem = f"nonfinite-step-{step:06d}"
    name = stem if ranks.count == 1 else f"{stem}-rank-{ranks.rank:05d}"
    bad = [
        of
        for of, parameter in model.named_parameters()
        if parameter.grad is not None and not local(parameter.grad).isfinite().all()
    ]
    shown = {of: str(value) for of, value in losses.items()}  # JSON has no word for what is not finite
    facts = {"step": step, "losses": shown, "gradient_norm": str(norm), "gradients": bad, "samples": batch.keys}
    save_file(dict(_tensors(batch, "")), folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    return folder / (f"{name}.json" if ranks.count == 1 else f"{stem}-rank-*.json")


def _tensors(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a batch, named by their field, such as images.pixels."""
    if isinstance(value, Tensor):
        yield name, value.detach().cpu().contiguous()
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name), f"{name}.{field.name}" if name else field.name)
    elif isinstance(value, tuple):  # what an objective or a family added
        for part in value:
            yield from _tensors(part, f"{name}.{type(part).__name__}")
