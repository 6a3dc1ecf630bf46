from typing import Any

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from chiasm.errors import RecipeError
from chiasm.nn.efficientnet import SIZES, Config, EfficientNetLite, port_name

CLASSIFIER = 1280 * 1000 + 1000


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _pair(size: str, image_size: int | None) -> tuple[EfficientNetLite, Any]:
    """Ours and the peer with the same random weights and batch statistics.

    In float64: rounding grows through a deep random network, and would hide a small mistake."""
    peer = EfficientNet.from_name(f"efficientnet-{size}", image_size=image_size, drop_connect_rate=0.0)
    for module in peer.modules():
        if isinstance(module, nn.BatchNorm2d):  # fresh statistics are 0 and 1: a wrong epsilon or name would not show
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.01, 1.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
    tower = SIZES[size].build()
    state = peer.state_dict()
    ours = {name: state.pop(port_name(name)) for name in tower.state_dict()}
    assert set(state) == {"_fc.weight", "_fc.bias"}
    tower.load_state_dict(ours)
    return tower.double(), peer.double()


def _peer_features(peer: Any, pixels_NCHW: Tensor) -> Tensor:
    return peer.extract_features(pixels_NCHW).flatten(2).transpose(1, 2)


@pytest.mark.parametrize("size", SIZES)
def test_every_size_equals_the_peer_at_its_resolution(size: str) -> None:
    resolution = SIZES[size].resolution
    tower, peer = _pair(size, resolution)
    pixels = torch.randn(1, 3, resolution, resolution, dtype=torch.float64)
    with torch.inference_mode():
        features = tower.eval()(pixels)
        torch.testing.assert_close(features, _peer_features(peer.eval(), pixels), atol=1e-9, rtol=0)
    assert features.shape == (1, SIZES[size].patches, SIZES[size].width)
    assert features.std() > 0.1  # not a comparison of zeros


@pytest.mark.parametrize(("height", "width"), [(97, 130), (64, 225)])
def test_any_resolution_equals_the_peer_with_dynamic_padding(height: int, width: int) -> None:
    tower, peer = _pair("lite0", None)
    pixels = torch.randn(2, 3, height, width, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(tower.eval()(pixels), _peer_features(peer.eval(), pixels), atol=1e-9, rtol=0)


def test_training_uses_and_updates_batch_statistics_as_the_peer_does() -> None:
    tower, peer = _pair("lite0", 64)
    pixels = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(tower.train()(pixels), _peer_features(peer.train(), pixels), atol=1e-9, rtol=0)
    theirs = peer.state_dict()
    for name, ours in tower.state_dict().items():
        assert torch.allclose(ours, theirs[port_name(name)], atol=1e-9, rtol=1e-9), name


def test_gradients_in_evaluation_mode_equal_the_peer() -> None:
    tower, peer = _pair("lite0", 64)
    pixels = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    tower.eval()(pixels).square().mean().backward()
    _peer_features(peer.eval(), pixels).square().mean().backward()
    theirs = {name: one.grad for name, one in peer.named_parameters()}
    for name, ours in tower.named_parameters():
        expected = theirs[port_name(name)]
        assert expected.abs().max() > 0, name
        torch.testing.assert_close(ours.grad, expected, atol=1e-9 * float(expected.abs().max()), rtol=1e-7)


def test_layout_of_the_pixels_does_not_matter_and_pooling_is_the_mean() -> None:
    tower = SIZES["lite0"].build().eval()
    pixels = torch.randn(2, 3, 96, 64)
    with torch.inference_mode():
        features = tower(pixels)
        torch.testing.assert_close(tower(pixels.contiguous(memory_format=torch.channels_last)), features)
        torch.testing.assert_close(tower.pooled(pixels), features.sum(dim=1) / (3 * 2))


@pytest.mark.parametrize(
    ("size", "millions"), [("lite0", 4.7), ("lite1", 5.4), ("lite2", 6.1), ("lite3", 8.2), ("lite4", 13.0)]
)
def test_published_parameter_counts(size: str, millions: float) -> None:
    with torch.device("meta"):
        tower = SIZES[size].build()
    assert round((sum(one.numel() for one in tower.parameters()) + CLASSIFIER) / 1e6, 1) == millions


def test_fresh_filters_follow_the_published_code() -> None:
    """Normal with variance 2 / (kernel² · outputs); for a depthwise filter TensorFlow counts one output."""
    state = SIZES["lite0"].build().state_dict()
    expected = {"blocks.3.depthwise": 2 / 25, "blocks.15.expand": 2 / 1152, "head": 2 / 1280}
    for name, variance in expected.items():
        assert float(state[f"{name}.conv.weight"].var()) == pytest.approx(variance, rel=0.1), name


def test_state_can_be_written_as_safetensors() -> None:
    assert all(one.is_contiguous() for one in SIZES["lite0"].build().state_dict().values())


def test_nonsense_config_is_refused() -> None:
    with pytest.raises(RecipeError, match="must be positive"):
        Config(width_multiplier=0)
