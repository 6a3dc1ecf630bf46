"""What each of several processes does with its share of one batch for BLIP-2's first stage; `together` runs this.

The losses and the gradients, averaged as DDP averages them, come out in files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from chiasm.data.batch import Batch
from chiasm.models.blip2_stage1 import BLIP2Stage1
from chiasm.training.cached import cached_losses
from chiasm.training.distributed import Ranks
from chiasm.training.learner import Learner
from chiasm.training.parallel import DDP
from tests.models.test_blip2_stage1 import pairs, small

BOUNDS = [0, 3, 8]


def share(model: BLIP2Stage1, first: int, last: int) -> dict[str, Tensor]:
    """The losses of some pairs of one batch of eight, with draws that belong to the pairs."""
    torch.manual_seed(5)
    draw_N2 = torch.rand(8, 2)
    whole = model.features(pairs(model, 8))
    own = {name: rows[first:last] for name, rows in whole.items()}
    return model.losses_of({**own, "draw": draw_N2[first:last]})


def in_parts(model: BLIP2Stage1, ranks: Ranks) -> dict[str, Tensor]:
    """The same losses of the same pairs, but this process learns from its share in parts, as DDP does it."""
    first, last = BOUNDS[ranks.rank : ranks.rank + 2]
    torch.manual_seed(5)
    whole = pairs(model, 8)
    draws = dict(zip(whole.keys, torch.rand(8, 2), strict=True))
    batch = _rows(whole, first, last)

    def features(part: Batch) -> dict[str, Tensor]:
        return {**model.features(part), "draw": torch.stack([draws[one] for one in part.keys])}

    way = DDP(Learner(model), ranks, torch.device("cpu"))
    return cached_losses(model, batch.split(2), total, features=features, call=way.call, local=way.local)


def _rows(batch: Batch, first: int, last: int) -> Batch:
    """Pairs of a batch, with the padding that they have in it."""
    assert batch.images is not None
    assert batch.texts is not None
    return Batch(batch.keys[first:last], batch.images.of_rows(first, last), batch.texts.of_rows(first, last))


def total(losses: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([loss for name, loss in losses.items() if name[0] != "_"]).sum()


def backward(model: BLIP2Stage1, losses: dict[str, Tensor], weight: float) -> None:
    torch.autograd.backward(total(losses) * weight)


def main(folder: Path, ranks: Ranks) -> None:
    rank, count = ranks.rank, ranks.count
    model = small()
    losses = share(model, *BOUNDS[rank : rank + 2])
    backward(model, losses, count * (BOUNDS[rank + 1] - BOUNDS[rank]) / 8)
    found = {name: loss.detach().clone() for name, loss in losses.items()}
    for name, parameter in model.named_parameters():
        grad = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        dist.all_reduce(grad)
        found[f"gradient/{name}"] = grad / count
    save_file(found, folder / f"rank-{rank}.safetensors")
    model = small()
    losses = in_parts(model, ranks)
    found = {name: loss.detach().clone() for name, loss in losses.items()}
    found |= {f"gradient/{name}": one.grad for name, one in model.named_parameters() if one.grad is not None}
    save_file(found, folder / f"parts-{rank}.safetensors")
