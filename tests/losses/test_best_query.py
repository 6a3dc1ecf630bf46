"""The negatives of BLIP-2's first stage by the shares that the released code draws them with."""

from __future__ import annotations

import pytest
import torch

from chiasm.losses.best_query import Similarities
from chiasm.losses.ring import Ring


@pytest.mark.parametrize(("share", "first"), [(0.0, 1e-4 / 2e-4), (1e-3, 1.1e-3 / 1.2e-3)])
def test_a_negative_that_is_nothing_alike_keeps_a_chance_of_one_in_ten_thousand(share: float, first: float) -> None:
    """Three columns, of which the row's own has what the others leave it. first: the second column's chance."""
    logits_NM = torch.tensor([[1 - share, share, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).log()
    alike = Similarities(logits_NM, logits_NM, Ring(3, torch.device("cpu")))
    for draw, column in ((first - 0.01, 1), (first + 0.01, 2)):
        for found in alike.negatives(torch.full((3, 2), draw)):
            assert int(found[0]) == column
