"""One tower for several windows: without adapters it is the plain one, and each adapter is its window's alone."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chiasm.data.batch import Images, PixelImages
from chiasm.errors import DataError, RecipeError
from chiasm.nn.image_towers import bare, windowed
from chiasm.nn.recompute import recompute_layers

SHAPE = (32, 8, 16, 2, 2, 40)
WINDOWS = 3


def made() -> tuple[windowed.Windowed, bare.Bare]:
    """A tower with fresh adapters, and the plain one with the same weights."""
    torch.manual_seed(0)
    ours = windowed.Config(*SHAPE, positions=9, windows=WINDOWS, rank=2, mlp_rank=3, dropout=0.0).build()
    plain = bare.Config(*SHAPE, positions=9).build()
    own = {name: tensor for name, tensor in ours.state_dict().items() if "adapters" not in name}
    plain.load_state_dict(own)
    return ours.double().eval(), plain.double().eval()


def pictures(count: int = 2) -> Images:
    parts = WINDOWS + 1
    pixels = torch.randn(count * parts, 3, 32, 32, dtype=torch.float64)
    return PixelImages(pixels, torch.arange(count), tiles_N=torch.full((count,), parts, dtype=torch.long))


def adapted(tower: windowed.Windowed, window: int) -> windowed.Windowed:
    """The tower with adapters of one window that do something."""
    with torch.no_grad():
        for name, one in tower.named_parameters():
            if "adapters" in name and name.endswith(f".{window}"):
                nn.init.normal_(one, std=0.5)
    return tower


def test_fresh_adapters_change_nothing() -> None:
    ours, plain = made()
    images = pictures()
    torch.testing.assert_close(ours.tokens(images), plain.tokens(images))
    assert ours.tokens(images).shape == (2 * (WINDOWS + 1), 16, 16)


@pytest.mark.parametrize("window", range(WINDOWS))
def test_an_adapter_touches_its_own_window_alone(window: int) -> None:
    ours, plain = made()
    images = pictures()
    found, before = adapted(ours, window).tokens(images), plain.tokens(images)
    changed = (found - before).abs().amax((1, 2)).view(2, WINDOWS + 1) > 1e-3
    assert changed.tolist() == [[at == window for at in range(WINDOWS + 1)]] * 2
    found.square().sum().backward()
    for name, one in ours.named_parameters():
        if "adapters" in name and not name.endswith(f".{window}") and "down" in name:
            assert one.grad is not None
            assert not one.grad.any(), name


def test_adapters_of_attention_are_sums_with_its_weights() -> None:
    """W x + B A x is (W + B A) x: a plain tower with the sums does the same to that window. The MLP's adapter reads
    another vector than the MLP, so it is added beside."""
    ours, plain = made()
    for at in range(WINDOWS):
        adapted(ours, at)
    images = pictures(1)
    x_MPD = ours._embedded(images)
    for layer in range(2):
        x_MPD = ours.blocks[layer](x_MPD)
    for at in range(WINDOWS):
        x_PD = plain._embedded(images)[at : at + 1]
        for block, own in zip(plain.blocks, ours.blocks, strict=True):
            x_PD = merged(block, own, at, x_PD)
        torch.testing.assert_close(x_MPD[at : at + 1], x_PD)


def merged(block: Any, own: Any, window: int, x_NPD: Tensor) -> Tensor:
    def sum_of(adapters: windowed.Adapters) -> Tensor:
        return adapters.scale[window] * adapters.up[window] @ adapters.down[window]

    attention = nn.MultiheadAttention(16, 2, batch_first=True).double()
    theirs = block.attention
    stacked = torch.cat([theirs.q.weight, theirs.k.weight, theirs.v.weight])
    attention.in_proj_weight.data = stacked + sum_of(own.qkv_adapters)
    attention.in_proj_bias.data = torch.cat([theirs.q.bias, theirs.k.bias, theirs.v.bias])
    attention.out_proj.weight.data = theirs.out.weight + sum_of(own.out_adapters)
    attention.out_proj.bias.data = theirs.out.bias
    seen = block.norm1(x_NPD)
    x_NPD = x_NPD + attention(seen, seen, seen, need_weights=False)[0]
    made: Tensor = x_NPD + block.mlp(block.norm2(x_NPD)) + x_NPD @ sum_of(own.mlp_adapters).T
    return made


def test_recomputed_blocks_have_the_same_gradients() -> None:
    ours, _ = made()
    adapted(ours, 1)
    images, found = pictures(1), []
    for recompute in (False, True):
        if recompute:
            assert recompute_layers(ours) == 2
        ours.zero_grad()
        ours.tokens(images).square().sum().backward()
        found.append([one.grad.clone() for one in ours.parameters() if one.grad is not None])
    torch.testing.assert_close(found[0], found[1])


def test_pictures_with_other_parts_are_refused() -> None:
    ours, plain = made()
    whole = PixelImages(torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.arange(2))
    with pytest.raises(DataError, match=r"sees 4 parts of a picture; set processor.layout to windows"):
        ours.tokens(whole)
    with pytest.raises(DataError, match="sees 32x32 pixels, but was given 16x24"):
        plain.tokens(PixelImages(torch.randn(1, 3, 24, 16, dtype=torch.float64), torch.arange(1)))
    with pytest.raises(RecipeError, match="do not make adapters"):
        windowed.Config(*SHAPE, rank=0)
    with pytest.raises(RecipeError, match="a square number"):
        bare.Config(*SHAPE, positions=8)
