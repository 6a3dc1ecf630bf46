"""Muon against torch's, whose products are brought from bf16 to float32 for the comparison."""

import pytest
import torch
from torch import Tensor

from chiasm.training.muon import Muon, orthogonal

SHAPES = [(6, 4), (4, 6), (6, 4), (5, 5), (3, 8)]


def trained(kind: type[torch.optim.Muon], adjust: str | None, nesterov: bool) -> tuple[list[Tensor], Tensor]:
    """The matrices after five steps, of which one never has a gradient, and the momentum of the first."""
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in [*SHAPES, (2, 2)]]
    groups = [{"params": matrices[:2], "lr": 0.1, "weight_decay": 0.0}, {"params": matrices[2:], "lr": 0.02}]
    optimiser = kind(groups, adjust_lr_fn=adjust, nesterov=nesterov, weight_decay=0.3)
    for _ in range(5):
        for matrix in matrices[:-1]:
            matrix.grad = torch.randn(matrix.shape, generator=generator)
        optimiser.step()
    return [matrix.detach() for matrix in matrices], optimiser.state[matrices[0]]["momentum_buffer"]


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", ["match_rms_adamw", "original", None])
def test_steps_are_those_of_torch(adjust: str | None, nesterov: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found, momentum = trained(Muon, adjust, nesterov)
    monkeypatch.setattr(Tensor, "bfloat16", Tensor.clone)  # torch's own products, then, in float32
    expected, known = trained(torch.optim.Muon, adjust, nesterov)
    assert torch.equal(momentum, known)
    for matrix, other in zip(found, expected, strict=True):
        torch.testing.assert_close(matrix, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7)])
def test_a_step_keeps_the_singular_vectors_and_evens_the_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    group = {"ns_coefficients": (3.4445, -4.7750, 2.0315), "ns_steps": 5, "eps": 1e-7}
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.norm(dim=1, keepdim=True)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    expected = left @ torch.diag_embed(values) @ right
    torch.testing.assert_close(orthogonal(matrix, group).double(), expected, atol=1e-4, rtol=1e-4)
    assert 0.5 < values.min() < values.max() < 1.5
