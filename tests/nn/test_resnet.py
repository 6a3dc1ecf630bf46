"""CLIP's ResNet. That whole towers compute what open_clip's compute is in tests/weights/test_open_clip.py."""

import pytest
import torch
import torch.nn.functional as F

from chiasm.data.batch import Images, PixelImages
from chiasm.errors import DataError
from chiasm.nn.image_towers.resnet import AttentionPool, Bottleneck, Config, ResNet

TINY = Config(image_size=64, channels=16, layers=(2, 1, 2, 1), heads=4)


def images(count: int, size: int = 64) -> Images:
    generator = torch.Generator().manual_seed(0)
    return PixelImages(torch.randn(count, 3, size, size, generator=generator), torch.arange(count))


def test_shapes() -> None:
    """A place of the last grid for each 32 pixels; 32 times the stem's channels."""
    tower = TINY.build().eval()
    assert tower.width == 512
    assert tower.tokens(images(2)).shape == (2, 4, 512)
    assert tower(images(2)).shape == (2, 512)
    assert tower.head(24)(tower(images(2))).shape == (2, 24)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(DataError, match=r"sees 64x64 pixels, but was given 32x32; set image.size"):
        TINY.build()(images(1, 32))


def test_attention_pooling_is_multi_head_attention_queried_by_the_mean() -> None:
    """Against PyTorch's own, in the way of the published code: all places are queried, the first is read."""
    torch.manual_seed(0)
    pool = AttentionPool(32, heads=4, positions=9)
    for linear in (pool.q, pool.k, pool.v):
        torch.nn.init.normal_(linear.bias)
    x_NPD = torch.randn(5, 9, 32)
    x_PND = x_NPD.transpose(0, 1)
    x_PND = torch.cat([x_PND.mean(0, keepdim=True), x_PND]) + pool.position[:, None]
    expected, _ = F.multi_head_attention_forward(
        x_PND,
        x_PND,
        x_PND,
        embed_dim_to_check=32,
        num_heads=4,
        in_proj_weight=torch.cat([pool.q.weight, pool.k.weight, pool.v.weight]),
        in_proj_bias=torch.cat([pool.q.bias, pool.k.bias, pool.v.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=torch.eye(32),
        out_proj_bias=torch.zeros(32),
    )
    torch.testing.assert_close(pool(x_NPD), expected[0], rtol=1e-5, atol=1e-6)


def test_a_new_block_passes_its_input_on() -> None:
    x_NCHW = torch.randn(2, 32, 6, 6).abs()
    torch.testing.assert_close(Bottleneck(32, 8, shrink=1)(x_NCHW), x_NCHW)


def test_a_shrinking_block_averages_before_it_convolves() -> None:
    """Its way round sees nothing finer than a mean of four pixels, so a pattern of one pixel does not alias."""
    block = Bottleneck(32, 8, shrink=2).eval()
    even = torch.randn(1, 32, 8, 8)
    checkers = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).tile(4, 4)
    torch.testing.assert_close(block(even + checkers), block(even))
    assert block(even).shape == (1, 32, 4, 4)


def test_every_parameter_is_learned() -> None:
    """But for what a block multiplies by nought at its start, gradients reach everything."""
    tower: ResNet = TINY.build()
    for name, parameter in tower.named_parameters():
        if name.endswith("expand.norm.weight"):
            torch.nn.init.ones_(parameter)
    tower(images(4)).square().sum().backward()
    assert not [name for name, one in tower.named_parameters() if one.grad is None or not one.grad.any()]
