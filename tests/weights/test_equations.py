"""The equations that Qwen-VL, Monkey and MiniCPM-V are held against, and the numbers that their papers give."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from chiasm.models import minicpm_v, monkey, qwen_vl
from chiasm.nn.grid_positions import resized, sines
from tests.weights import equations


def test_places_by_hand() -> None:
    """For a width of 8 the rates are 1 and 1/100: of the place in row 1, column 2, the column first. The authors take
    this from MAE's code (arXiv:2111.06377), whose grid has "w goes first"."""
    column = [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02)]
    row = [math.sin(1), math.sin(0.01), math.cos(1), math.cos(0.01)]
    for grid in (equations.sines(2, 3, 8), sines(2, 3, 8).numpy()):
        assert grid.shape == (6, 8)
        np.testing.assert_allclose(grid[5], [*column, *row], atol=1e-6)
        np.testing.assert_allclose(grid[0], [0, 0, 1, 1] * 2, atol=1e-6)


@pytest.mark.parametrize(("old", "new"), [(4, 8), (16, 32), (4, 3)])
def test_positions_are_spread_as_torch_spreads_pictures(old: int, new: int) -> None:
    """The programs call torch's bicubic interpolation, without antialiasing."""
    position = np.random.default_rng(0).standard_normal((old * old, 5))
    grid = torch.from_numpy(position).view(1, old, old, 5).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, (new, new), mode="bicubic", align_corners=False).flatten(2)[0].T
    np.testing.assert_allclose(equations.spread(position, new), expected, atol=1e-12)
    np.testing.assert_allclose(resized(torch.from_numpy(position), new), expected, atol=1e-6)
    # Keys' kernel, halfway between four samples: -3/32, 19/32, 19/32, -3/32.
    if (old, new) == (4, 8):
        halfway = equations.bicubic(4, 2)[0]
        np.testing.assert_allclose(halfway, [-3 / 32 + 19 / 32, 19 / 32, -3 / 32, 0], atol=1e-12)


def counts(config: Any) -> dict[str, int]:
    with torch.device("meta"):
        parts = {
            "vision": config.vision.build(),
            "connector": config.connector.build(config.vision.width, config.language.width),
            "language": config.language.build(),
        }
    return {name: sum(one.numel() for one in part.parameters()) for name, part in parts.items()}


def test_the_sizes_of_qwen_vls_parts() -> None:
    """Table 1 of arXiv:2308.12966: 1.9B in the tower, 0.08B in the adapter, 7.7B in the language model, 9.6B in all;
    section 2.1: 256 queries, and pictures of 448 pixels at a stride of 14. The matrix behind the last norm, which the
    files count with the tower, is half of what the adapter would else have too many."""
    config = qwen_vl.SIZES["9.6b"]
    found = counts(config)
    last = 4096 * 4096
    assert round((found["vision"] + last) / 1e9, 1) == 1.9
    assert round((found["connector"] - last) / 1e9, 2) == 0.08
    assert round(found["language"] / 1e9, 1) == 7.7
    assert 9.6 < sum(found.values()) / 1e9 < 9.7
    assert config.processor_entries()["layout"]["image_tokens"] == 256
    assert config.vision.patches == (448 // 14) ** 2 == 1024


def test_monkeys_windows_and_tokens() -> None:
    """Section 4.1 of arXiv:2311.06607: pictures of 896x1344 pixels in windows of 448, six of them and the whole, of 256
    tokens each; the program (Lora_Adapter in visual.py) has ranks of 16, and 32 beside the MLP."""
    config = monkey.SIZES["9.8b"]
    tower: Any = config.vision
    assert (config.rows * 448, config.columns * 448) == (896, 1344)
    assert (tower.windows + 1) * config.connector.queries == 7 * 256 == 1792
    assert (tower.rank, tower.mlp_rank) == (16, 32)


def test_minicpm_vs_tokens() -> None:
    """Section 3.1 of arXiv:2408.01800: 96 queries in version 2.5; 64 in 2.6 (its model card: 640 tokens for 1.8 million
    pixels, in nine slices and the whole). Heads of 128 values, by the program."""
    for size, queries in (("2.5", 96), ("2.6", 64)):
        config = minicpm_v.SIZES[size]
        language: Any = config.language
        assert config.connector.queries == queries
        assert config.connector.heads * 128 == language.width
    assert (minicpm_v.SIZES["2.6"].most + 1) * 64 == 640
