"""Features before pooling: transformers' last_hidden_state, open_clip's tokens, and grids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import chiasm
from chiasm.data.batch import PixelImages
from chiasm.data.image import Image
from chiasm.models import clip
from chiasm.models.dual_encoder import DualEncoder
from chiasm.nn.image_towers.resnet import ResNet
from chiasm.weights.mapping import take_tensors
from chiasm.weights.open_clip._settings import read_model
from chiasm.weights.open_clip._table import TABLES
from tests import peers
from tests.weights import test_open_clip as oc
from tests.weights import test_transformers_clip, test_transformers_siglip, tiny
from tests.weights.shaking import shaken
from tests.worlds import tiny_clip


@pytest.mark.parametrize("family", ["clip", "siglip"])
@torch.no_grad()
def test_tokens_are_transformers_last_hidden_state(family: str, tmp_path: Path) -> None:
    peer: Any = tiny.clip_model() if family == "clip" else tiny.siglip_model()
    write = test_transformers_clip.written if family == "clip" else test_transformers_siglip.written
    ours = chiasm.load(write(tmp_path, peer))
    assert isinstance(ours, DualEncoder)
    images = ours.processor.images([Image(one) for one in tiny.photos(2)])
    made, mlp_width = ours.encode_image_tokens(images), peer.vision_model(images.pixels).last_hidden_state
    # transformers' CLIP normalises after this, its SigLIP before.
    tiny.assert_near(made.tokens_NPD, peer.vision_model.post_layernorm(mlp_width) if family == "clip" else mlp_width)
    assert made.grid_N2.tolist() == [[4, 4]] * len(images)
    assert made.prefix == (family == "clip")
    assert torch.equal(made.places(1).flatten(0, 1), made.tokens_NPD[1, made.prefix :])
    texts = ours.processor.texts(tiny.CAPTIONS)
    words = ours.encode_text_tokens(texts)
    tiny.assert_near(words.tokens_BTD, peer.text_model(texts.ids_BT).last_hidden_state)
    assert torch.equal(words.lengths_B, texts.lengths_B)
    assert len(words) == len(tiny.CAPTIONS)


@torch.no_grad()
def test_tokens_are_those_that_open_clip_puts_out() -> None:
    """Its `output_tokens`: normalised, without the class token."""
    open_clip = peers.open_clip()
    settings = oc.model_cfg(oc.VIT)
    peer = oc.peer_model(open_clip, settings)
    peer.visual.output_tokens = True
    pixels = torch.randn(2, 3, 32, 32)
    config, _, _ = read_model(settings, "here")
    ours = clip.CLIP(config, tiny_clip().processor).eval()
    take_tensors(ours, TABLES[type(config.vision)], peer.state_dict(), "peer")
    made = ours.encode_image_tokens(PixelImages(pixels, torch.arange(2)))
    tiny.assert_near(made.tokens_NPD[:, made.prefix :], peer.visual(pixels)[1])


@torch.no_grad()
def test_a_resnets_tokens_are_its_feature_map() -> None:
    """Row by row: pooled, they are what the model makes of the picture."""
    config = clip.Config(oc.OWN_RESNET, tiny_clip().config.text, 16)
    model = shaken(clip.CLIP(config, tiny_clip().processor))
    images = PixelImages(torch.randn(2, 3, 64, 64), torch.arange(2))
    made = model.encode_image_tokens(images)
    assert made.places(0).shape == (2, 2, 512)
    assert isinstance(model.vision, ResNet)
    tiny.assert_near(model.vision.pool(made.tokens_NPD), model.vision(images))


def test_tokens_have_gradients() -> None:
    model = tiny_clip()
    images = PixelImages(torch.randn(2, 3, 16, 16), torch.arange(2))
    torch.autograd.backward(model.encode_image_tokens(images).tokens_NPD.square().sum())
    position = model.get_parameter("vision.position")
    assert position.grad is not None
    assert position.grad.any()
