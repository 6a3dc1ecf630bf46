"""Other resolutions and contexts: equal to what the peers make of the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import chiasm
from chiasm.data.batch import Images, PixelImages
from chiasm.data.image import Image
from chiasm.errors import CapabilityError
from chiasm.models import clip, siglip2
from chiasm.models.dual_encoder import DualEncoder
from chiasm.models.resolution import set_context, set_resolution
from chiasm.weights import open_clip as adapter
from tests import peers
from tests.weights import test_open_clip as oc
from tests.weights import test_transformers_clip, test_transformers_siglip, tiny, tiny_siglip2
from tests.weights.shaking import shaken
from tests.worlds import tiny_clip


def drawn(size: int) -> torch.Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(size))


def given(pixels: torch.Tensor) -> Images:
    return PixelImages(pixels, torch.arange(len(pixels)))


@pytest.mark.parametrize(("image_size", "patch", "size"), [(32, 8, 64), (35, 7, 21), (39, 13, 66), (30, 8, 47)])
@pytest.mark.parametrize("family", ["clip", "siglip"])
@torch.no_grad()
def test_as_transformers_interpolates(family: str, image_size: int, patch: int, size: int, tmp_path: Path) -> None:
    """Up and down, odd patches, and sizes that are no multiple of a patch; the class token's position is kept."""
    peer: Any
    if family == "clip":
        peer = tiny.clip_model(image_size=image_size, patch=patch)
        folder = test_transformers_clip.written(tmp_path, peer)
    else:
        peer = tiny.siglip_model(image_size=image_size, patch=patch)
        folder = test_transformers_siglip.written(tmp_path, peer)
    ours = chiasm.load(folder)
    assert isinstance(ours, DualEncoder)
    set_resolution(ours, size, antialias=False)
    theirs = peer.vision_model(drawn(size), interpolate_pos_encoding=True)
    tiny.assert_near(ours.vision(given(drawn(size))), theirs.pooler_output)
    ours.check()
    assert ours.embed_images([Image(tiny.photos(1)[0])]).shape[0] == 1  # the processor makes that size, too


@pytest.mark.parametrize(("image_size", "patch", "size"), [(32, 8, 64), (35, 7, 21), (30, 8, 47)])
@torch.no_grad()
def test_as_open_clip_resizes_when_it_loads(image_size: int, patch: int, size: int, tmp_path: Path) -> None:
    open_clip = peers.open_clip()
    vision = {**oc.VIT, "image_size": image_size, "patch_size": patch}
    settings = oc.model_cfg(vision)
    first = oc.peer_model(open_clip, settings)
    folder = oc.written(open_clip, tmp_path, first, settings)
    longer = oc.model_cfg({**vision, "image_size": size})
    longer["text_cfg"]["context_length"] = 33
    second = oc.peer_model(open_clip, longer)
    state = {name: value.clone() for name, value in first.state_dict().items()}
    open_clip.model.resize_pos_embed(state, second)
    open_clip.model.resize_text_pos_embed(state, second)
    second.load_state_dict(state)
    ours = chiasm.load(folder, image_size=size, context=33)
    assert isinstance(ours, clip.CLIP)
    tiny.assert_near(ours.encode_images(given(drawn(size))), second.encode_image(drawn(size), normalize=True))
    tokens = ours.processor.texts(tiny.CAPTIONS)
    assert tokens.lengths_B.max() == 33
    ids = torch.zeros(len(tokens), 33, dtype=torch.long)
    ids[:, : tokens.ids_BT.shape[1]] = tokens.ids_BT
    tiny.assert_near(ours.encode_texts(tokens), second.encode_text(ids, normalize=True))
    adapter.save(ours, tmp_path / "saved")
    assert adapter.load(tmp_path / "saved").config == ours.config


def test_as_timm_resizes_siglips() -> None:
    peers.open_clip()
    import importlib

    from chiasm.models.resolution import resized_grid

    peer = importlib.import_module("timm.layers").resample_abs_pos_embed
    position_PD = torch.randn(49, 6)
    expected = peer(position_PD[None], [10, 10], num_prefix_tokens=0)[0]
    tiny.assert_near(resized_grid(position_PD, 10, 0), expected)


def test_nothing_changes_at_the_same_size(tmp_path: Path) -> None:
    folder = test_transformers_siglip.written(tmp_path, tiny.siglip_model())
    plain, asked = chiasm.load(folder), chiasm.load(folder, image_size=32, context=16)
    assert asked.config == plain.config
    assert all(torch.equal(value, asked.state_dict()[name]) for name, value in plain.state_dict().items())


def test_a_bidirectional_text_tower_reads_its_new_context(tmp_path: Path) -> None:
    ours = chiasm.load(test_transformers_siglip.written(tmp_path, tiny.siglip_model()), context=24)
    assert isinstance(ours, DualEncoder)
    assert ours.processor.texts(["dog"]).ids_BT.shape == (1, 24)
    assert ours.embed_texts(["dog"]).isfinite().all()


def test_a_resnet_takes_another_size() -> None:
    config = clip.Config(oc.OWN_RESNET, tiny_clip().config.text, 16)
    model = shaken(clip.CLIP(config, tiny_clip().processor))
    before = model.get_parameter("vision.pool.position").detach().clone()
    set_resolution(model, 96)
    after = model.get_parameter("vision.pool.position")
    assert after.shape == (10, before.shape[1])
    assert torch.equal(after[0], before[0])  # of the mean
    assert model.encode_images(given(drawn(96))).isfinite().all()


def test_the_changed_model_keeps_what_it_was(tmp_path: Path) -> None:
    """Saved and opened, it is what it was; a frozen position stays frozen."""
    from chiasm.models import folder

    model = tiny_clip().eval()
    model.vision.position.requires_grad_(False)
    set_resolution(model, 24)
    set_context(model, 12)
    assert not model.vision.position.requires_grad
    assert model.text.position.requires_grad
    model.check()
    folder.save(model, tmp_path / "model")
    again = chiasm.load(tmp_path / "model")
    assert isinstance(again, DualEncoder)
    photos = [Image(one) for one in tiny.photos(1)]
    assert torch.equal(again.score(photos, ["red"]), model.score(photos, ["red"]))


def test_what_has_no_resolution_is_told(tmp_path: Path) -> None:
    folder = tiny_siglip2.write_naflex(tmp_path, tiny_siglip2.naflex_model())
    with pytest.raises(CapabilityError, match="resolution of a NaFlex cannot be changed"):
        chiasm.load(folder, image_size=64)
    model = chiasm.load(folder)
    assert isinstance(model, siglip2.SigLIP2)
    with pytest.raises(CapabilityError, match="less than one patch"):
        set_resolution(tiny_clip(), 5)
    with pytest.raises(CapabilityError, match="leaves nothing to read"):
        set_context(model, 0)
