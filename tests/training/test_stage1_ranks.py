"""BLIP-2's first stage over two processes: losses and gradients of the batch that they hold together."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from chiasm.errors import RecipeError
from chiasm.training.distributed import Ranks
from chiasm.training.parallel import share_model
from chiasm.training.settings import Training
from tests.models.test_blip2_stage1 import small
from tests.training import stage1_ranks


@pytest.mark.slow
@pytest.mark.xdist_group("ranks")
def test_two_processes_with_unequal_shares_learn_what_one_learns(together: Path) -> None:
    model = small()
    losses = stage1_ranks.share(model, 0, 8)
    stage1_ranks.backward(model, losses, 1.0)
    for file in ("rank-0", "rank-1", "parts-0", "parts-1"):
        found = load_file(together / "stage1" / f"{file}.safetensors")
        for name, loss in losses.items():
            assert float(found[name]) == pytest.approx(float(loss.detach()), abs=1e-9), name
        for name, parameter in model.named_parameters():
            known = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            grad = found.get(f"gradient/{name}", torch.zeros_like(parameter))
            torch.testing.assert_close(grad, known, atol=1e-9, rtol=1e-7)


def test_slices_of_layers_that_compare_are_refused() -> None:
    settings = Training(steps=1, parallel="fsdp", accumulate=2)
    with pytest.raises(RecipeError, match="a BLIP2Stage1 compares samples by layers that must then be whole"):
        share_model(small(), settings, Ranks(0, 2), torch.device("cpu"))
