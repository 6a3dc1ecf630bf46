"""Hidden patches, against transformers' towers that replace them (ViT, as BEiT does) and leave them out (ViT-MAE)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from chiasm.data.batch import PatchImages, PixelImages
from chiasm.errors import DataError, RecipeError
from chiasm.models import clip
from chiasm.nn.image_towers import bare, efficientnet_lite, internvit, naflex, native, resnet, vit
from chiasm.nn.patch_mask import PatchMask
from chiasm.nn.text_towers import transformer as text
from chiasm.nn.tower import ImageTower
from tests import peers  # noqa: F401  # before transformers

SIDE, PATCHES = 4, 16


def _tower(**changes: Any) -> vit.ViT:
    """Of the form of transformers' ViT."""
    shape: dict[str, Any] = {"act": "gelu", "pre_norm": False, "epsilon": 1e-12, **changes}
    return vit.Config(32, 8, 24, 2, 2, 48, **shape).build().double().eval()


def _images(count: int = 3) -> PixelImages:
    pixels = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return PixelImages(pixels, torch.arange(count))


def _hidden(count: int = 3, hidden: int = 6) -> torch.Tensor:
    drawn = torch.rand(count, PATCHES, generator=torch.Generator().manual_seed(2))
    return drawn.argsort(1).argsort(1) < hidden


def _copied(peer: nn.Module, ours: vit.ViT) -> None:
    """The peer's weights, shaken so that nothing is zeros or ones, in our tower."""
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    given = dict(peer.state_dict())
    names = {
        "embed": "embeddings.patch_embeddings.projection",
        "norm": "layernorm",
        **{
            f"blocks.{at}.{our}": f"layers.{at}.{their}"
            for at in range(2)
            for our, their in {
                "attention.q": "attention.q_proj",
                "attention.k": "attention.k_proj",
                "attention.v": "attention.v_proj",
                "attention.out": "attention.o_proj",
                "norm1": "layernorm_before",
                "norm2": "layernorm_after",
                "mlp.up": "mlp.fc1",
                "mlp.down": "mlp.fc2",
            }.items()
        },
    }
    state = {f"{our}.{kind}": given[f"{their}.{kind}"] for our, their in names.items() for kind in ("weight", "bias")}
    state["class_token"] = given["embeddings.cls_token"][0, 0]
    state["position"] = given["embeddings.position_embeddings"][0]
    if ours.mask_token is not None:
        state["mask_token"] = given["embeddings.mask_token"][0, 0]
    ours.load_state_dict(state)


_SETTINGS = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}


def test_replaced_patches_are_those_of_transformers() -> None:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    peer: Any = ViTModel(ViTConfig(**_SETTINGS), add_pooling_layer=False, use_mask_token=True).double().eval()
    ours, images, hidden = _tower(mask_token=True), _images(), _hidden()
    _copied(peer, ours)
    seen = ours.tokens(images, PatchMask(hidden, ours.mask_token))
    known = peer(pixel_values=images.pixels, bool_masked_pos=hidden).last_hidden_state
    torch.testing.assert_close(seen, known)
    torch.testing.assert_close(ours(images, PatchMask(hidden, ours.mask_token)), known[:, 0])
    assert not torch.allclose(ours.tokens(images), known)  # the mask does something
    torch.autograd.backward(seen.sum())
    assert ours.mask_token is not None
    assert ours.mask_token.grad is not None
    assert ours.mask_token.grad.any()


def test_left_out_patches_are_those_of_transformers() -> None:
    """ViT-MAE keeps patches in the order of numbers that can be given; attention does not mind."""
    from transformers import ViTMAEConfig, ViTMAEModel

    torch.manual_seed(0)
    peer: Any = ViTMAEModel(ViTMAEConfig(**_SETTINGS, mask_ratio=6 / 16)).double().eval()
    ours, images = _tower(), _images()
    _copied(peer, ours)
    noise = torch.rand(3, PATCHES, dtype=torch.float64)
    known = peer(pixel_values=images.pixels, noise=noise)
    mask = PatchMask(known.mask.bool())
    seen = ours.tokens(images, mask)
    assert seen.shape == known.last_hidden_state.shape == (3, 11, 24)
    torch.testing.assert_close(seen[:, 0], known.last_hidden_state[:, 0])
    places = noise.argsort(1)[:, :10].sort(1).indices  # where each of the kept ones stands there
    theirs = known.last_hidden_state[:, 1:].gather(1, places[:, :, None].expand(-1, -1, 24))
    torch.testing.assert_close(seen[:, 1:], theirs)


def _patches(tower: naflex.PatchTower) -> PatchImages:
    grid = torch.tensor([[4, 4], [2, 3], [3, 5]])
    pixels = torch.randn(3, 16, 3 * tower.config.patch**2, generator=torch.Generator().manual_seed(3)).double()
    return PatchImages(pixels, torch.arange(3), grid)


@pytest.mark.parametrize("kind", [naflex.Config, native.Config])
def test_pictures_of_different_shapes_may_keep_different_numbers(kind: type[naflex.Config]) -> None:
    """Each picture of the batch is what it is alone, with its hidden patches taken out by hand."""
    tower = kind(4, 24, 2, 2, 48, positions=16).build().double().eval()
    images = _patches(tower)
    hidden = _hidden(3, 5)
    seen = tower.tokens(images, PatchMask(hidden))
    for at, (rows, columns) in enumerate(images.grid_M2.tolist()):
        places = (~hidden[at, : rows * columns]).nonzero()[:, 0]
        x_1PD = tower.embed(images.pixels[at, places]) + tower._spread(rows, columns)[places]
        alone = x_1PD[None]
        for block in tower.blocks:
            alone = block(alone)
        torch.testing.assert_close(seen[at, : len(places)], tower.norm(alone)[0])


def test_a_naflex_token_stands_for_hidden_patches() -> None:
    tower = naflex.Config(4, 24, 2, 2, 48, positions=16, mask_token=True).build().double().eval()
    images, hidden = _patches(tower), _hidden(3, 5)
    mask = PatchMask(hidden, tower.mask_token)
    other = images.with_pixels(torch.where(hidden[:, :, None], images.pixels + 9, images.pixels))
    torch.testing.assert_close(tower.tokens(images, mask), tower.tokens(other, mask))  # what is hidden is not seen
    assert not torch.allclose(tower.tokens(images), tower.tokens(other))


@pytest.mark.parametrize(
    "tower",
    [
        bare.Config(32, 8, 24, 1, 2, 48, positions=16).build(),
        internvit.Config(32, 8, 24, 1, 2, 48).build(),
        vit.Config(32, 8, 24, 1, 2, 48).build(),
    ],
    ids=["bare", "internvit", "vit"],
)
@pytest.mark.parametrize("token", [None, torch.ones(24)])
def test_no_tower_sees_what_is_hidden(tower: ImageTower, token: torch.Tensor | None) -> None:
    tower = tower.double().eval()
    images, hidden = _images(), _hidden()
    mask = PatchMask(hidden, token)
    shown = hidden.view(3, 1, SIDE, SIDE).repeat_interleave(8, 2).repeat_interleave(8, 3)
    other = images.with_pixels(torch.where(shown, images.pixels + 5, images.pixels))
    seen = tower.tokens(images, mask)
    assert seen.shape[1] == tower.prefix + (10 if token is None else 16)
    torch.testing.assert_close(seen, tower.tokens(other, mask))
    assert not torch.allclose(tower.tokens(images), tower.tokens(other))


def test_masks_that_cannot_be_are_refused() -> None:
    tower, images = _tower(), _images()
    with pytest.raises(DataError, match="keeps as many patches of each picture, but the mask leaves 15 to 16"):
        tower.tokens(images, PatchMask(torch.eye(PATCHES)[[0, 0, 0]].bool() & torch.tensor([[True], [False], [True]])))
    with pytest.raises(DataError, match="does not fit"):
        tower.tokens(images, PatchMask(torch.zeros(3, 9, dtype=torch.bool)))
    for other in (resnet.Config(32, 8, (1, 1, 1, 1), 2).build(), efficientnet_lite.Config().build()):
        assert not other.takes_masks
        with pytest.raises(DataError, match="no patches can be hidden from it"):
            other.tokens(PixelImages(images.pixels.float(), images.row_N), PatchMask(_hidden()))


def test_a_tower_without_pooling_makes_no_dual_encoder() -> None:
    config = clip.Config(bare.Config(32, 8, 24, 1, 2, 48, positions=16), text.Config(64, 8, 24, 1, 2, 48), width=16)
    with pytest.raises(RecipeError, match="'bare' makes no single vector of a picture"):
        config.parameters()


def test_a_layout_that_a_tower_does_not_see_is_an_error() -> None:
    with pytest.raises(DataError, match="this ViT sees whole pictures, but was given PatchImages"):
        _tower().tokens(_patches(native.Config(4, 24, 1, 2, 48).build()))
