from __future__ import annotations

import itertools
from collections import Counter

import pytest

from chiasm.data.order import Shuffle


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 65, 1000, 4097])
def test_every_index_stands_once(count: int) -> None:
    assert sorted(Shuffle(count, seed=3, epoch=1)) == list(range(count))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(Shuffle(100, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_every_index_comes_first_about_equally_often() -> None:
    """The first place of 8,000 shuffles of 8: each index 1,000 times, give or take five standard deviations."""
    first = Counter(Shuffle(8, seed, 0)[0] for seed in range(8000))
    deviation = (8000 * 1 / 8 * 7 / 8) ** 0.5
    assert all(abs(first[index] - 1000) < 5 * deviation for index in range(8))


def test_neighbours_are_torn_apart() -> None:
    """Of a random order, about 2 of n places keep their successor."""
    order = list(Shuffle(10_000, 0, 0))
    kept = sum(b == a + 1 for a, b in itertools.pairwise(order))
    assert kept < 10


def test_a_place_outside_is_an_error() -> None:
    with pytest.raises(IndexError):
        Shuffle(4, 0, 0)[4]


def test_a_huge_order_costs_nothing() -> None:
    order = Shuffle(12_800_000_000, 0, 0)
    assert len({order[place] for place in range(1000)}) == 1000
