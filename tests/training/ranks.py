"""What two and three real processes do together; `together` runs this, `test_distributed` judges what it leaves.

Each scene writes what came out of it under its name."""

from __future__ import annotations

import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from chiasm.data.batch import Batch
from chiasm.data.reader import Reader
from chiasm.errors import ChiasmError
from chiasm.losses.contrastive import info_nce
from chiasm.losses.sigmoid import pairwise_sigmoid
from chiasm.models.model import Model
from chiasm.training import slices
from chiasm.training.distributed import Ranks
from chiasm.training.loop import Loop
from chiasm.training.settings import PartSettings, Training
from tests.worlds import Patches, tiny_clip, tiny_processor

STEPS, BATCH = 20, 12
# Of the first batch all that the second of two ranks would read; of later ones two samples of one rank, then of both.
BROKEN_POSITIONS = (*range(6, 12), 13, 14, 28, 33)


def broken() -> tuple[int, ...]:
    order = Reader(Patches(60), tiny_processor(), BATCH, seed=1)
    return tuple(order._index(position) for position in BROKEN_POSITIONS)


def loop(folder: Path, ranks: Ranks, source: Patches | None = None, **changes: Any) -> Loop:
    """The same run for any number of ranks."""
    entries = {"steps": STEPS, "learning_rate": 1e-3, "device": "cpu", "log_every": 1, "ema": 0.9, "warmup": 0.2}
    settings = Training(**{**entries, **changes})
    reader = Reader(
        source or Patches(60), tiny_processor(), BATCH, seed=1, max_skipped=1.0, rank=ranks.rank, ranks=ranks.count
    )
    return Loop(tiny_clip(), reader, settings, folder, recipe="name: x\n", console=Console(quiet=True), ranks=ranks)


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def state_of(run: Loop) -> dict[str, Tensor]:
    """Weights, average and optimiser state, whole."""
    found = {f"weights/{name}": whole(tensor) for name, tensor in run.model.state_dict().items()}
    if run.average is not None:
        found |= {f"average/{name}": whole(tensor) for name, tensor in run.average.weights.items()}
    for group in run.optimiser.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in run.optimiser.state[parameter].items():
                found[f"optimiser/{name}/{key}"] = whole(value)
    return found


def write(run: Loop, file: Path) -> None:
    state = state_of(run)
    if run.ranks.first:
        save_file(state, file)


def gathering(ranks: Ranks) -> dict[str, Any]:
    """Losses and gradients of rows that the ranks hold different numbers of: each sees its own of 8."""
    torch.manual_seed(0)
    image_ND, text_ND = torch.nn.functional.normalize(torch.randn(2, 8, 5), dim=-1)
    bounds = {2: [0, 3, 8], 3: [0, 3, 3, 8]}[ranks.count]
    own = slice(bounds[ranks.rank], bounds[ranks.rank + 1])
    count = own.stop - own.start
    found: dict[str, Any] = {}
    losses: dict[str, Callable[..., Tensor]] = {
        "info_nce": info_nce,
        "sigmoid": lambda a, b, scale: pairwise_sigmoid(a, b, scale, scale * 0 - 2),
    }
    for name, loss in losses.items():
        image, text = image_ND[own].clone().requires_grad_(), text_ND[own].clone().requires_grad_()
        scale = torch.tensor(3.0, requires_grad=True)
        value = loss(image, text, scale) if count else loss(image, text, scale).nan_to_num()
        torch.autograd.backward(value * count / 8)
        total = value.detach() * count / 8
        assert scale.grad is not None
        assert image.grad is not None
        assert text.grad is not None
        for tensor in (total, scale.grad):
            dist.all_reduce(tensor)
        found[name] = {"loss": float(total), "scale": float(scale.grad)}
        for what, grad in (("image", image.grad), ("text", text.grad)):
            rows = torch.zeros_like(image_ND)
            rows[own] = grad
            dist.all_reduce(rows)
            found[name][what] = rows.tolist()
    return found


def two(folder: Path, ranks: Ranks) -> dict[str, Any]:
    told: dict[str, Any] = {"gathering": gathering(ranks)}

    frozen = {"text.embed": PartSettings(frozen=True)}
    for way in ("ddp", "fsdp"):
        run = loop(folder / way, ranks, parallel=way, parts=frozen, checkpoint_every=10, clip_norm=0.5)
        told[way] = run.run()
        write(run, folder / f"{way}.safetensors")
        if ranks.first:
            shutil.copy(folder / way / "metrics.jsonl", folder / f"{way}.jsonl")  # a resumed run takes lines back
        finished = run.finished()
        if finished is not None:
            save_file(dict(finished.state_dict()), folder / f"{way}-finished.safetensors")

    for way in ("ddp", "fsdp"):  # parts of a batch, whose gradients are shared once
        run = loop(folder / f"parts-{way}", ranks, parallel=way, accumulate=3, ema=None)
        run.run()
        write(run, folder / f"parts-{way}.safetensors")

    run = loop(folder / "broken", ranks, Patches(60, broken()), steps=8)
    run.run()
    write(run, folder / "broken.safetensors")
    told["broken"] = run.progress.samples_skipped

    muon = loop(folder / "muon", ranks, optimiser="muon", steps=2)
    told["muon"] = muon.run()
    told["refused"] = [
        refused(lambda: loop(folder / "no", ranks, parallel="fsdp", optimiser="muon")),
        refused(lambda: loop(folder / "no", ranks, parallel="none")),
        refused(lambda: loop(folder / "no", ranks, parallel="fsdp", precision="fp16")),
    ]

    for at, way in enumerate(("ddp", "fsdp")):  # one rank's loss is not finite: both stop, and neither hangs
        bad = loop(folder / f"bad-{way}", ranks, parallel=way)
        real = bad._losses
        nan = math.nan if ranks.rank == 1 and at < 2 else 1.0
        bad._losses = lambda batch, real=real, nan=nan: {"c": real(batch)["contrastive"] * nan}  # type: ignore[misc]
        told[f"bad-{way}"] = refused(bad.run)

    full = loop(folder / "full", ranks, checkpoint_every=2)  # the disk of one rank takes no second checkpoint
    with pytest.MonkeyPatch.context() as patch:

        def write_half(tensors: dict[str, Tensor], file: Path, **rest: Any) -> None:
            if ranks.rank == 1 and "step-000004" in str(file):
                file.write_bytes(b"half")
                raise OSError(28, "No space left on device")
            save_file(tensors, file, **rest)

        patch.setattr(slices, "save_file", write_half)
        told["full"] = [refused(full.run), sorted(path.name for path in full.checkpoints.folder.iterdir())]

    def queue() -> list[int]:
        known = (folder / "queue").read_text().split() if ranks.rank else []
        (folder / "queue").write_text(" ".join([*known, str(ranks.rank)]))
        return [int(word) for word in known]

    told["queue"] = ranks.in_turn(queue)

    stopped = loop(folder / "stopped", ranks, steps=1000)
    real = stopped._losses

    def losses(batch: Batch) -> dict[str, Tensor]:
        if ranks.rank == 1 and stopped.progress.step == 2:  # a signal to one rank alone
            os.kill(os.getpid(), signal.SIGTERM)
        return real(batch)

    stopped._losses = losses
    told["stopped"] = [stopped.run(), stopped.checkpoints.steps()]

    # An evaluation on the first rank that takes longer than the ranks otherwise wait for each other.
    hasty = replace(ranks, control=dist.new_group(backend="gloo", timeout=timedelta(seconds=4)))
    patient = loop(folder / "patient", hasty, steps=2, evaluate_every=1, parallel="fsdp")
    drawn: list[float] = []

    def evaluate(model: Model) -> Mapping[str, float]:
        if not drawn:
            time.sleep(6)
        drawn.append(float(torch.rand(())))
        return {"norm": float(sum(one.norm() for one in model.parameters()))}

    patient.evaluate = evaluate
    told["patient"] = [patient.run(), len(drawn)]

    # Written by one process, by two with slices, by two with copies; read by the others.
    for name in ("alone", "fsdp", "ddp"):
        for way in ("fsdp", "ddp"):
            again = loop(folder / name, ranks, parallel=way, parts=frozen, steps=30, checkpoint_every=10)
            told[f"{name} under {way}"] = again.resume()
            write(again, folder / f"{name}-under-{way}.safetensors")
    return told


def three(folder: Path, ranks: Ranks) -> dict[str, Any]:
    told: dict[str, Any] = {"gathering": gathering(ranks)}
    frozen = {"text.embed": PartSettings(frozen=True)}
    for way in ("fsdp", "ddp"):
        again = loop(folder / "fsdp", ranks, parallel=way, parts=frozen, clip_norm=0.5, steps=12)
        told[f"fsdp under {way}"] = again.resume()
        write(again, folder / f"fsdp-under-three-{way}.safetensors")
    again.run()
    run = loop(folder / "three", ranks, parallel="fsdp", parts=frozen, checkpoint_every=2, steps=3)
    run.run()
    write(run, folder / "three-end.safetensors")
    return told


def refused(act: Callable[[], object]) -> str:
    try:
        act()
    except ChiasmError as error:
        return str(error)
    return ""
