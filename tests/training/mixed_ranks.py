"""Batches of which one rank has all pictures and the other none; `together` runs this, `test_mixed` judges it.

All in float64 but the logits: sums in another order differ by less than anything that is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from chiasm.adaptation.adapted import adapt
from chiasm.adaptation.adapters import lora
from chiasm.data.reader import Budget, Reader
from chiasm.training.distributed import Ranks
from chiasm.training.loop import Loop
from chiasm.training.settings import Training
from tests.models.generative_models import small_flamingo, small_llava
from tests.training.chats import Chats
from tests.training.ranks import whole

STEPS, BATCH = 4, 8
RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "packed": {"budget": Budget(500), "accumulate": 3},
    "adapted": {"adapted": True, "checkpoint_every": 3},
    "beside": {"beside": True},
}
MODES = (
    ("plain", "ddp"),
    ("plain", "fsdp"),
    ("packed", "fsdp"),
    ("adapted", "fsdp"),
    ("beside", "ddp"),
    ("beside", "fsdp"),
)


@dataclass(frozen=True)
class InOrder(Chats):
    """Of eight that follow each other the first half has pictures; the third eight have none at all."""

    def at(self, position: int, seed: int) -> int:
        return position % self.count


def imaged(index: int) -> bool:
    return index % BATCH < BATCH // 2 and index // BATCH != 2


def loop(
    folder: Path,
    ranks: Ranks,
    *,
    budget: Budget | None = None,
    adapted: bool = False,
    beside: bool = False,
    **changes: Any,
) -> Loop:
    """The same run for any number of ranks. beside: of Flamingo, whose pictures stand beside the stream."""
    model = small_flamingo() if beside else small_llava()
    if adapted:
        torch.manual_seed(0)
        adapt(model, {"language": lora.Config(rank=4), "vision": lora.Config(rank=2, dora=True)})
    entries = {"steps": STEPS, "learning_rate": 1e-3, "device": "cpu", "log_every": 1, "epsilon": 1e-4}
    reader = Reader(
        InOrder(imaged=imaged),
        model.processor,
        0 if budget else BATCH,
        budget=budget,
        captions="keep",
        rank=ranks.rank,
        ranks=ranks.count,
    )
    embed = model.double().vision.get_submodule("embed")
    embed.register_forward_pre_hook(_as_float64)
    settings = Training(**{**entries, **changes})
    return Loop(model, reader, settings, folder, console=Console(quiet=True), ranks=ranks)


def _as_float64(_: nn.Module, pixels: tuple[Tensor]) -> tuple[Tensor]:
    """Pixels as the tower's weights are, those of dummies in batches without pictures too."""
    return (pixels[0].double(),)


def write(run: Loop, file: Path) -> None:
    """All that learns."""
    state = {name: whole(one) for name, one in run.model.named_parameters() if one.requires_grad}
    if run.ranks.first:
        save_file(state, file)


def main(folder: Path, ranks: Ranks) -> None:
    for name, way in MODES:
        run = loop(folder / f"{name}-{way}", ranks, parallel=way, **RUNS[name])
        assert run.run()
        write(run, folder / f"{name}-{way}.safetensors")
    again = loop(folder / "adapted-fsdp", ranks, parallel="fsdp", **RUNS["adapted"])  # from the checkpoint at step 3
    assert again.resume() == STEPS - 1
    assert again.run()
    write(again, folder / "resumed.safetensors")
