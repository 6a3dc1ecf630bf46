"""Accumulation for losses that compare samples: the parts give what the whole batch gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from chiasm.data.batch import Batch
from chiasm.data.reader import Reader
from chiasm.models import clip
from chiasm.training.cached import cached_losses
from chiasm.training.loop import Loop
from chiasm.training.settings import Training
from tests.worlds import Patches, tiny_clip, tiny_processor


def _with_dropout() -> clip.CLIP:
    model = tiny_clip().train()
    model.image_dropout.p, model.text_dropout.p = 0.4, 0.2
    return model


def _batch(count: int = 14) -> Batch:
    return next(iter(Reader(Patches(64), tiny_processor(), count, seed=1)))


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def _whole(model: clip.CLIP, parts: list[Batch]) -> Tensor:
    """One graph over all parts, random numbers drawn in their order."""
    features = [model.features(part) for part in parts]
    joined = {name: torch.cat([one[name] for one in features]) for name in features[0]}
    loss = model.losses_of(joined)["contrastive"]
    torch.autograd.backward(loss)
    return loss.detach()


@pytest.mark.parametrize("count", [2, 3, 14])
def test_loss_and_gradients_are_those_of_the_whole_batch(count: int) -> None:
    """With dropout, whose second draw must be the first again; the temperature learns too."""
    ours, reference, parts = _with_dropout(), _with_dropout(), _batch().split(count)
    torch.manual_seed(5)
    wanted = _whole(reference, parts)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    losses = cached_losses(ours, parts, lambda named: named["contrastive"])
    assert torch.equal(torch.get_rng_state(), after)  # a run goes on as if there had been one pass
    torch.testing.assert_close(losses["contrastive"], wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(_gradients(ours), _gradients(reference), rtol=1e-5, atol=1e-6)
    assert _gradients(ours)["log_scale"].abs() > 1e-3


def test_parts_on_their_own_would_learn_something_else() -> None:
    """What the cache is for: the mean of the parts' losses is another loss."""
    batch, model = _batch(), tiny_clip()
    parts = torch.stack([model.losses(part)["contrastive"] for part in batch.split(7)]).mean()
    assert abs(float(parts.detach() - model.losses(batch)["contrastive"].detach())) > 0.1


def _loop(folder: Path, **changes: Any) -> Loop:
    settings = Training(**{"steps": 3, "device": "cpu", **changes})
    reader = Reader(Patches(64), tiny_processor(), 16, seed=1)
    return Loop(tiny_clip(), reader, settings, folder, console=Console(quiet=True))


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_a_run_in_parts_is_the_run(tmp_path: Path, precision: str) -> None:
    whole = _loop(tmp_path / "whole", precision=precision)
    parts = _loop(tmp_path / "parts", precision=precision, accumulate=5)
    relative, absolute = (1e-4, 1e-5) if precision == "float32" else (0.1, 2e-3)
    batch = next(iter(whole.reader))
    for loop in (whole, parts):
        loop.scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=precision == "fp16")
        told = loop._backward(batch)
        assert told["loss"] == pytest.approx(told["contrastive"])
        loop.scaler.unscale_(loop.optimiser)
    torch.testing.assert_close(_gradients(parts.model), _gradients(whole.model), rtol=relative, atol=absolute)


def test_a_frozen_tower_and_what_is_counted_as_it_goes(tmp_path: Path) -> None:
    """No gradient reaches a frozen tower; running means see each sample once."""
    model = tiny_clip()
    model.vision.requires_grad_(False)
    norm = nn.BatchNorm1d(16)
    model.image_head = nn.Sequential(model.image_head, norm)  # type: ignore[assignment]  # a head that counts
    model.train()
    cached_losses(model, _batch().split(2), lambda named: named["contrastive"])
    assert int(norm.num_batches_tracked or 0) == 2
    assert not any(name.startswith("vision") for name in _gradients(model))
    assert "text.embed.weight" in _gradients(model)


class _Counted(nn.Module):
    """Stands for DDP: counts what goes through it, and what stays local."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.kept = 0

    def forward(self, function: Any, *given: Any) -> Tensor:
        self.calls += 1
        return function(*given)

    def __enter__(self) -> None:
        self.kept += 1

    def __exit__(self, *_: object) -> None:
        pass


def test_every_backward_goes_through_what_shares_gradients_and_the_last_shares() -> None:
    shared = _Counted()
    cached_losses(tiny_clip(), _batch().split(4), lambda named: named["contrastive"], call=shared, local=lambda: shared)
    assert (shared.calls, shared.kept) == (8, 3)
