"""The cross-attention resampler beside torch's own attention, and its positions beside their formula."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.errors import DataError, RecipeError
from chiasm.nn.connectors.cross_attention import Config, Resampler
from chiasm.nn.grid_positions import on_grids, resized, sines
from chiasm.nn.image_towers.native import nearest

WIDTH, HEADS, FEATURES = 16, 4, 10


def by_hand(rows: int, columns: int, width: int) -> Tensor:
    """Half of the values tell the column, half the row; of each half, sines of all frequencies, then cosines."""
    made = []
    for row in range(rows):
        for column in range(columns):
            values = []
            for place in (column, row):
                angles = [place / 10_000 ** (at / (width // 4)) for at in range(width // 4)]
                values += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
            made.append(values)
    return torch.tensor(made, dtype=torch.float64)


def made(places: str, queries: int = 9) -> Resampler:
    torch.manual_seed(0)
    model = Config(queries, HEADS, places).build(FEATURES, WIDTH)  # type: ignore[arg-type]  # one of the two
    for one in model.parameters():
        nn.init.normal_(one, std=0.5)
    return model.double().eval()


def by_torch(ours: Resampler) -> nn.MultiheadAttention:
    """torch's attention with the weights of ours."""
    theirs, own = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double().eval(), ours.attention
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([own.q.weight, own.k.weight, own.v.weight]))
        theirs.in_proj_bias.copy_(torch.cat([own.q.bias, own.k.bias, own.v.bias]))
    theirs.out_proj.load_state_dict(own.out.state_dict())
    return theirs


@pytest.mark.parametrize(("rows", "columns", "width"), [(4, 4, 16), (3, 5, 8), (1, 70, 64), (32, 1, 4)])
def test_positions_are_those_of_the_formula(rows: int, columns: int, width: int) -> None:
    torch.testing.assert_close(sines(rows, columns, width).double(), by_hand(rows, columns, width), atol=2e-5, rtol=0)


def test_pictures_of_any_shape_have_positions_of_their_own_grid() -> None:
    """MiniCPM-V: keys know where they are, queries and values do not; what fills a batch up is never seen."""
    ours, grids = made("own"), torch.tensor([[2, 3], [4, 1], [3, 3]])
    theirs, x_NPD = by_torch(ours), torch.randn(3, 9, FEATURES, dtype=torch.float64)
    mask_NP = torch.arange(9) < grids.prod(1)[:, None]
    found = ours(x_NPD, grids, mask_NP)
    for at, (rows, columns) in enumerate(grids.tolist()):
        values = ours.norm1(ours.map(x_NPD[at, : rows * columns]))[None]
        queries = ours.query_norm(ours.queries)[None]
        mixed = theirs(queries, values + by_hand(rows, columns, WIDTH), values, need_weights=False)[0]
        expected = ours.norm2(mixed[0]) @ ours.project.weight.T
        torch.testing.assert_close(found[at], expected, atol=1e-6, rtol=1e-6)
    noisy = x_NPD.masked_fill(~mask_NP[:, :, None], 7.0)
    torch.testing.assert_close(ours(noisy, grids, mask_NP), found)
    assert not torch.allclose(ours(x_NPD[:1, :6], grids[:1]), ours(x_NPD[:1, :6], grids[:1].flip(1)), atol=1e-3)


def test_positions_of_no_pictures_are_none() -> None:
    none = torch.empty(0, 2, dtype=torch.long)
    assert on_grids(none, 9, lambda rows, columns: sines(rows, columns, WIDTH)).shape == (0, 9, WIDTH)


def test_a_squares_positions_are_resized_to_the_keys() -> None:
    """Qwen-VL: queries have the positions of their square, keys the same, spread over a larger one."""
    ours, x_NPD = made("shared"), torch.randn(2, 36, FEATURES, dtype=torch.float64)
    theirs, square = by_torch(ours), by_hand(3, 3, WIDTH)
    spread = F.interpolate(square.T.view(1, WIDTH, 3, 3), (6, 6), mode="bicubic", align_corners=False)
    values = ours.norm1(ours.map(x_NPD))
    queries = (ours.query_norm(ours.queries) + square).expand(2, -1, -1)
    mixed = theirs(queries, values + spread.flatten(2)[0].T, values, need_weights=False)[0]
    torch.testing.assert_close(ours(x_NPD), ours.norm2(mixed) @ ours.project.weight.T, atol=1e-5, rtol=1e-5)
    assert torch.equal(resized(square, 3), square)
    assert "position" in ours.state_dict()


def test_features_as_wide_as_the_model_are_not_mapped() -> None:
    model = Config(4, 2).build(WIDTH, WIDTH)
    assert isinstance(model.map, nn.Identity)
    assert model(torch.randn(2, 9, WIDTH)).shape == (2, 4, WIDTH)
    assert Config(4, 2).image_tokens(1234) == 4


def test_what_makes_no_resampler_is_refused() -> None:
    with pytest.raises(RecipeError, match="5 queries and 2 heads"):
        Config(5, 2, "shared")
    with pytest.raises(RecipeError, match="18 cannot be split"):
        Config(4, 2).build(8, 18)
    with pytest.raises(DataError, match="8 features are no square"):
        made("shared")(torch.randn(1, 8, FEATURES, dtype=torch.float64))


def test_the_tower_takes_the_learned_positions_that_minicpm_takes() -> None:
    """Its program asks torch.arange where fractions begin, whose last bits depend on the width of the machine's
    vectors: exactly on an edge of two buckets either may be taken. Elsewhere, and for squares of 448 pixels, none."""
    side = 70
    edges = torch.arange(1 / side, 1.0, 1 / side)
    for count in range(1, 100):
        begins = torch.arange(0, 1 - 1e-6, (1 / torch.tensor(count, dtype=torch.int32)).item())
        found, theirs = nearest(count, side), torch.bucketize(begins, edges, right=True)
        on_edge = torch.arange(count) * side % count == 0
        assert torch.equal(found[~on_edge], theirs[~on_edge]), count
        assert int((found - theirs).abs().max()) <= 1
        assert count != 448 // 14 or torch.equal(found, theirs)
