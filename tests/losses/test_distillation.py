"""The distillation loss against open_clip's, and DINO's comparison against its formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chiasm.losses.contrastive import info_nce
from chiasm.losses.distillation import distilled_prototypes, distilled_similarities
from tests import peers


def _unit(*shape: int, seed: int) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(drawn, dim=-1)


@pytest.mark.parametrize("chunk", [2, 7, 64])
def test_loss_and_gradients_are_those_of_open_clip(chunk: int) -> None:
    peer = peers.open_clip().loss.DistillClipLoss()
    image, text = (_unit(7, 5, seed=seed).requires_grad_() for seed in (1, 2))
    teacher = _unit(7, 9, seed=3), _unit(7, 9, seed=4)
    scale = torch.tensor(11.0, dtype=torch.float64, requires_grad=True)
    teacher_scale = torch.tensor(31.0, dtype=torch.float64)
    contrastive, distilled = peer(image, text, scale, *teacher, teacher_scale)
    ours = distilled_similarities(image, text, scale, *teacher, teacher_scale, chunk=chunk)
    torch.testing.assert_close(ours, distilled)
    torch.testing.assert_close(info_nce(image, text, scale), contrastive)
    known = torch.autograd.grad(distilled, (image, text, scale))
    for found, gradient in zip(torch.autograd.grad(ours, (image, text, scale)), known, strict=True):
        torch.testing.assert_close(found, gradient)


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    image, text = (_unit(6, 5, seed=seed).requires_grad_() for seed in (1, 2))
    scale = torch.tensor(8.0, dtype=torch.float64)
    loss = distilled_similarities(image, text, scale, image.detach(), text.detach(), scale)
    for gradient in torch.autograd.grad(loss, (image, text)):
        assert gradient.abs().max() < 1e-12


def test_prototypes_are_compared_by_the_formula() -> None:
    student, teacher = (torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(s)).double() for s in (1, 2))
    centre = torch.randn(4, generator=torch.Generator().manual_seed(3)).double()
    found = distilled_prototypes(student, teacher, centre, 0.1, 0.04)
    for at in range(2):
        for place in range(3):
            p = torch.exp((teacher[at, place] - centre) / 0.04)
            q = torch.exp(student[at, place] / 0.1)
            expected = -((p / p.sum()) * torch.log(q / q.sum())).sum()
            torch.testing.assert_close(found[at, place], expected)
