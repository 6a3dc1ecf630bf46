"""Objectives over the tests' small world: the same run for any number of ranks, parts and sittings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.distributed.tensor import DTensor

from chiasm.data.reader import Reader
from chiasm.data.tokenizer import Tokenizer
from chiasm.models import clip, siglip
from chiasm.nn.image_towers import vit
from chiasm.nn.text_towers import transformer
from chiasm.objectives import siglip2
from chiasm.objectives.distillation import Distillation
from chiasm.objectives.objective import Objective
from chiasm.training.distributed import Ranks
from chiasm.training.loop import Loop
from chiasm.training.settings import Training
from tests.worlds import Patches, tiny_clip, tiny_processor

BATCH = 12
VIEWS = siglip2.Config(
    start=0.25,
    local_views=2,
    local_area=(0.6, 1.0),
    prototypes=8,
    width=16,
    bottleneck=6,
    teacher_temperature=0.07,
    momentum=0.98,
    centre_momentum=0.98,
)


def tiny_siglip(seed: int = 0) -> siglip.SigLIP:
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"layers": 1, "heads": 2, "mlp_width": 64, "act": "gelu_tanh"}
    config = siglip.Config(
        vit.Config(16, 4, width=32, pool="map", pre_norm=False, **shape),
        transformer.Config(320, 16, width=32, causal=False, **shape),
    )
    processor = tiny_processor()
    tokenizer = processor.tokenizer
    padded = Tokenizer(tokenizer.backend, replace(tokenizer.rules, padding="context"))
    return siglip.SigLIP(config, type(processor)(processor.image, padded))


def teacher() -> clip.CLIP:
    """A CLIP of another width, whose transform differs."""
    torch.manual_seed(5)
    processor = tiny_processor()
    config = clip.Config(
        vit.Config(24, 8, width=16, layers=1, heads=2, mlp_width=32),
        transformer.Config(320, 16, width=16, layers=1, heads=2, mlp_width=32),
        width=8,
    )
    transform = processor.transform
    assert transform is not None
    return clip.CLIP(config, type(processor)(replace(transform, size=24), processor.tokenizer))


def made(name: str, seed: int = 0) -> tuple[clip.CLIP | siglip.SigLIP, Objective]:
    """A model and its objective."""
    if name == "distillation":
        student = tiny_clip(seed)
        return student, Distillation(teacher(), student.processor)
    model = tiny_siglip(seed)
    torch.manual_seed(seed + 1)
    return model, VIEWS.build(model)


def loop(folder: Path, name: str, ranks: Ranks | None = None, seed: int = 0, **changes: Any) -> Loop:
    ranks = ranks or Ranks()
    entries: dict[str, Any] = {"steps": 8, "learning_rate": 1e-3, "device": "cpu", "log_every": 1, **changes}
    model, objective = made(name, seed)
    reader = Reader(
        Patches(60), model.processor, BATCH, seed=1, rank=ranks.rank, ranks=ranks.count, extend=objective.extend
    )
    settings = Training(**entries)
    quiet = Console(quiet=True)
    return Loop(model, reader, settings, folder, recipe="name: x\n", console=quiet, ranks=ranks, objective=objective)


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone().contiguous()


def state_of(run: Loop) -> dict[str, Tensor]:
    """The model, what the objective owns, and the optimiser's state, whole."""
    found = {f"model/{name}": whole(tensor) for name, tensor in run.model.state_dict().items()}
    found |= {f"objective/{name}": whole(tensor) for name, tensor in run.objective.saved().items()}
    for group in run.optimiser.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in run.optimiser.state[parameter].items():
                found[f"optimiser/{name}/{key}"] = whole(value)
    return found
