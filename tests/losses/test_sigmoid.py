"""The pairwise sigmoid loss against closed forms and the losses of others."""

import math

import pytest
import torch
from torch import Tensor

from chiasm.losses.sigmoid import pairwise_sigmoid
from tests import peers
from tests.losses.given import gradients, pairs


def _transformers(image_ND: Tensor, text_ND: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """SiglipModel.forward itself, with towers that hand out the embeddings."""
    from transformers import SiglipConfig, SiglipModel
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    blank = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 0, "num_attention_heads": 1}
    peer = SiglipModel(SiglipConfig(vision_config=blank, text_config=blank))
    peer.vision_model.forward = lambda **_: BaseModelOutputWithPooling(pooler_output=image_ND)
    peer.text_model.forward = lambda **_: BaseModelOutputWithPooling(pooler_output=text_ND)
    del peer.logit_scale, peer.logit_bias
    peer.logit_scale, peer.logit_bias = scale.log(), bias
    loss: Tensor = peer(input_ids=torch.zeros(1, 1), pixel_values=torch.zeros(1), return_loss=True).loss
    return loss


def _open_clip(image_ND: Tensor, text_ND: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    loss: Tensor = peers.open_clip().loss.SigLipLoss()(image_ND, text_ND, scale, bias)
    return loss


@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (1.0, 0.0), (117.0, -12.9)])
@pytest.mark.parametrize("count", [1, 2, 37])
@pytest.mark.parametrize("peer", ["transformers", "open_clip"])
def test_value_and_gradients_are_those_of_others(peer: str, count: int, scale: float, bias: float) -> None:
    theirs = _transformers if peer == "transformers" else _open_clip
    given = (*pairs(count), torch.tensor(scale), torch.tensor(bias))
    ours, expected = gradients(pairwise_sigmoid, *given), gradients(theirs, *given)
    if peer == "transformers":  # it makes its inputs unit length again, which takes the radial part of the gradient
        ours[1:3] = [
            gradient - (gradient * unit).sum(-1, keepdim=True) * unit
            for gradient, unit in zip(ours[1:3], given[:2], strict=True)
        ]
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [1, 5])
def test_logits_of_nought_cost_log_2_a_pair(count: int) -> None:
    """N * N pairs at log 2 each, over N."""
    image_ND, text_ND = pairs(count)
    loss = pairwise_sigmoid(image_ND, text_ND, torch.tensor(0.0), torch.tensor(0.0))
    assert math.isclose(float(loss), count * math.log(2), rel_tol=1e-6)


def test_perfect_pairs() -> None:
    """Orthogonal pairs: matches have the logit scale + bias, all others the bias."""
    loss = pairwise_sigmoid(torch.eye(6), torch.eye(6), torch.tensor(4.0), torch.tensor(-1.0))
    assert math.isclose(float(loss), math.log1p(math.exp(-3)) + 5 * math.log1p(math.exp(-1)), rel_tol=1e-5)


def test_the_papers_start_is_not_swamped_by_negatives() -> None:
    """Section 3.2: at a bias of -10 a large batch starts near the 10 of its one match, not near N log 2."""
    image_ND, text_ND = pairs(256, width=2048)
    mixed = torch.roll(text_ND, 1, 0)  # nothing matches yet
    loss = pairwise_sigmoid(image_ND, mixed, torch.tensor(10.0), torch.tensor(-10.0))
    assert 9 < float(loss) < 11
