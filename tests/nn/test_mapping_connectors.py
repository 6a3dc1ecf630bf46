"""MAPL's mapper against torch's own transformer, and Frozen's prefix by its closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from chiasm.errors import RecipeError
from chiasm.nn.connectors import linear, mapper, prefix

SMALL = mapper.Config(queries=5, width=24, layers=3, heads=4, mlp_width=40)


def small_mapper() -> mapper.Connector:
    torch.manual_seed(0)
    built = mapper.Connector(12, 16, SMALL).double()
    with torch.no_grad():  # norms and biases that are not what they begin as
        for one in built.parameters():
            one.add_(0.2 * torch.randn_like(one))
    return built


def as_torch(ours: mapper.Connector) -> nn.TransformerEncoder:
    """torch's encoder with the same weights."""
    layer = nn.TransformerEncoderLayer(24, 4, 40, dropout=0.0, activation="relu", batch_first=True, norm_first=True)
    theirs = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).double()
    state: dict[str, torch.Tensor] = {}
    for at, block in enumerate(ours.blocks):
        assert isinstance(block, nn.Module)
        own = block.state_dict()
        parts = [own[f"attention.{name}.weight"] for name in "qkv"], [own[f"attention.{name}.bias"] for name in "qkv"]
        state |= {
            f"layers.{at}.self_attn.in_proj_{kind}": torch.cat(rows)
            for kind, rows in zip(("weight", "bias"), parts, strict=True)
        }
        for mine, other in (
            ("attention.out", "self_attn.out_proj"),
            ("mlp.up", "linear1"),
            ("mlp.down", "linear2"),
            ("norm1", "norm1"),
            ("norm2", "norm2"),
        ):
            state |= {f"layers.{at}.{other}.{kind}": own[f"{mine}.{kind}"] for kind in ("weight", "bias")}
    theirs.load_state_dict(state)
    return theirs


def test_the_mapper_is_torchs_encoder_over_features_and_queries() -> None:
    ours, features = small_mapper(), torch.randn(2, 7, 12, dtype=torch.float64)
    beside = torch.cat([ours.down(features), ours.queries.expand(2, -1, -1)], dim=1)
    expected = ours.up(as_torch(ours)(beside)[:, 7:])
    torch.testing.assert_close(ours(features), expected, atol=1e-10, rtol=0)


def test_queries_keep_their_order_and_features_have_none() -> None:
    ours, features = small_mapper(), torch.randn(2, 7, 12, dtype=torch.float64)
    whole, order = ours(features), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(ours(features[:, torch.randperm(7)]), whole, atol=1e-10, rtol=0)
    with torch.no_grad():
        ours.queries.copy_(ours.queries[order])
    torch.testing.assert_close(ours(features), whole[:, order], atol=1e-10, rtol=0)
    assert not torch.allclose(whole[:, order], whole)


def test_the_published_map_has_3_4_million_parameters() -> None:
    """MAPL's abstract: "a small number of trainable parameters", 3.4 million from CLIP-L (1,024) to GPT-J (4,096)."""
    built = mapper.Config().build(1_024, 4_096)
    count = sum(one.numel() for one in built.parameters())
    assert count == 3_431_680
    assert round(count / 1e6, 1) == 3.4
    assert mapper.Config().image_tokens(257) == 32


def test_the_prefix_is_one_map_of_the_mean_cut_into_slots() -> None:
    torch.manual_seed(0)
    built = prefix.Config(tokens=3).build(6, 4).double()
    assert isinstance(built, prefix.Connector)
    features = torch.randn(2, 5, 6, dtype=torch.float64)
    found = built(features)
    assert found.shape == (2, 3, 4)
    for image_token in range(3):
        rows = slice(4 * image_token, 4 * image_token + 4)
        expected = features.mean(1) @ built.map.weight[rows].T + built.map.bias[rows]
        torch.testing.assert_close(found[:, image_token], expected)
    assert prefix.Config(tokens=3).image_tokens(5) == 3
    assert linear.Config().image_tokens(5) == 5


def test_features_are_dropped_in_training_alone() -> None:
    built, features = prefix.Config(tokens=2, dropout=0.5).build(400, 3), torch.ones(1, 1, 400)
    torch.manual_seed(0)
    assert not torch.equal(built(features), built(features))
    built.eval()
    assert torch.equal(built(features), built(features))
    with pytest.raises(RecipeError, match="share of the features"):
        prefix.Config(dropout=1.0)


@pytest.mark.parametrize("wrong", [lambda: prefix.Config(tokens=0), lambda: mapper.Config(queries=0)])
def test_no_slots_are_refused(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(RecipeError, match="at least one"):
        wrong()
