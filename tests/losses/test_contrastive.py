"""The contrastive loss against closed forms and the losses of others."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chiasm.losses.contrastive import info_nce
from tests import peers
from tests.losses.given import gradients, pairs


def _transformers(image_ND: Tensor, text_ND: Tensor, scale: Tensor) -> Tensor:
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    loss: Tensor = image_text_contrastive_loss(scale * text_ND @ image_ND.T)
    return loss


def _open_clip(image_ND: Tensor, text_ND: Tensor, scale: Tensor) -> Tensor:
    loss: Tensor = peers.open_clip().ClipLoss()(image_ND, text_ND, scale)
    return loss


@pytest.mark.parametrize("theirs", [_transformers, _open_clip])
@pytest.mark.parametrize("scale", [1.0, 1 / 0.07, 100.0])
@pytest.mark.parametrize("count", [1, 2, 37])
def test_value_and_gradients_are_those_of_others(
    theirs: Callable[[Tensor, Tensor, Tensor], Tensor], scale: float, count: int
) -> None:
    given = (*pairs(count), torch.tensor(scale))
    torch.testing.assert_close(gradients(info_nce, *given), gradients(theirs, *given), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 50])
def test_pairs_that_cannot_be_told_apart_cost_log_n(count: int) -> None:
    same_ND = F.normalize(torch.ones(count, 8), dim=-1)
    assert math.isclose(float(info_nce(same_ND, same_ND, torch.tensor(30.0))), math.log(count), abs_tol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_perfect_pairs(scale: float) -> None:
    """Orthogonal pairs: each row of logits is (scale, 0, ..., 0)."""
    loss = info_nce(torch.eye(6), torch.eye(6), torch.tensor(scale))
    assert math.isclose(float(loss), math.log(1 + 5 * math.exp(-scale)), rel_tol=1e-5)


def test_both_directions_count() -> None:
    """Two pictures alike and two texts that differ: only the choice of a picture is a guess."""
    image_ND = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    text_ND = torch.eye(2)
    loss = info_nce(image_ND, text_ND, torch.tensor(3.0))
    to_text = (math.log(1 + math.exp(-3)) + math.log(1 + math.exp(3))) / 2
    assert math.isclose(float(loss), (to_text + math.log(2)) / 2, rel_tol=1e-5)


def test_the_order_of_the_pairs_does_not_matter() -> None:
    image_ND, text_ND = pairs(9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor(10.0)
    torch.testing.assert_close(info_nce(image_ND[order], text_ND[order], scale), info_nce(image_ND, text_ND, scale))
