from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.data.order import Blocks, BlockShuffle, Shuffle, interleaved


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


STRETCHES = st.builds(
    Blocks,
    st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any).map(tuple),
    st.integers(1, 14),
)


@given(STRETCHES, st.integers(0, 2**40), st.integers(0, 5))
def test_every_index_of_a_stretch_stands_once(blocks: Blocks, seed: int, epoch: int) -> None:
    order = BlockShuffle(blocks, seed, epoch)
    assert sorted(order) == list(range(sum(blocks.counts)))
    assert [order[place] for place in range(len(order))] == list(BlockShuffle(blocks, seed, epoch))


@given(STRETCHES, st.integers(0, 2**40))
def test_each_stretch_stands_in_one_window(blocks: Blocks, seed: int) -> None:
    """Cut at the ends of the windows, each piece holds `together` whole stretches, the last the rest."""
    starts = [0, *itertools.accumulate(blocks.counts)]
    owner = [number for number, count in enumerate(blocks.counts) for _ in range(count)]
    order = [owner[index] for index in BlockShuffle(blocks, seed, 0)]
    reach = {one: (order.index(one), len(order) - 1 - order[::-1].index(one)) for one in set(order)}
    for place in range(len(order)):
        open_now = [one for one, (first, last) in reach.items() if first <= place <= last]
        assert len(open_now) <= blocks.together
    assert starts[-1] == len(order)


def test_samples_of_a_window_mix_as_in_a_uniform_shuffle() -> None:
    """Of 40 stretches of 250, 4 together: neighbours come from the same stretch as often as chance has it."""
    counts = (250,) * 40
    order = [index // 250 for index in BlockShuffle(Blocks(counts, 4), 1, 0)]
    same = sum(a == b for a, b in itertools.pairwise(order))
    expected, deviation = 10_000 * 249 / 999, (10_000 * 0.25 * 0.75) ** 0.5
    assert abs(same - expected) < 5 * deviation
    # A batch of 32 sees W (1 - (1 - 1/W)^B) stretches, nearly all 4 of its window and no other.
    seen = [len(set(order[first : first + 32])) for first in range(0, 1000 - 32, 32)]
    assert np.mean(seen) == pytest.approx(4 * (1 - 0.75**32), abs=0.1)


def test_batches_of_sorted_data_vary_as_the_docstring_says() -> None:
    """One class a stretch (r = 1): the mean of a batch varies by 1/W of the variance between the stretches."""
    values = np.random.default_rng(0).normal(size=400)
    order = np.array([index // 64 for index in BlockShuffle(Blocks((64,) * 400, 8), 0, 0)])
    means = values[order].reshape(-1, 64).mean(1)
    assert means.var() == pytest.approx(values.var() * (1 / 8 + 7 / 8 / 64), rel=0.35)


def test_orders_by_stretches_differ_by_seed_and_epoch() -> None:
    blocks = Blocks((5,) * 8, 2)
    assert len({tuple(BlockShuffle(blocks, seed, epoch)) for seed in range(4) for epoch in range(4)}) == 16
    with pytest.raises(IndexError):
        BlockShuffle(blocks, 0, 0)[40]
    with pytest.raises(ValueError, match="nothing"):
        BlockShuffle(Blocks((0, 0), 2), 0, 0)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8))
def test_turns_follow_the_quotas_at_every_place(quotas: list[int]) -> None:
    sources, turns = interleaved(quotas)
    had = [0] * len(quotas)
    for place, (source, turn) in enumerate(zip(sources.tolist(), turns.tolist(), strict=True)):
        assert turn == had[source]
        had[source] += 1
        for count, quota in zip(had, quotas, strict=True):
            share = quota / sum(quotas)
            assert abs(count - (place + 1) * share) <= 0.5 + share * len(quotas) / 2 + 1e-9
    assert had == quotas
