"""Closed forms against the enumeration of every way to break ties."""

from itertools import permutations
from math import comb

import numpy as np
import pytest
from numpy.typing import NDArray

from chiasm.evaluation.ranking import hit_share, rank


def enumerated(scores: NDArray, true: NDArray, k: int) -> tuple[float, float]:
    """Share of tie-breakings with a right one among the first k, and the mean rank of the first right one."""
    present = [at for at in range(len(scores)) if not np.isnan(scores[at])]
    hits, ranks = [], []
    for order in permutations(present):
        place = {candidate: at for at, candidate in enumerate(order)}
        ranked = sorted(present, key=lambda at: (-scores[at], place[at]))
        first = next(at for at, candidate in enumerate(ranked) if true[candidate])
        hits.append(first < k)
        ranks.append(first + 1)
    return float(np.mean(hits)), float(np.mean(ranks))


@pytest.mark.parametrize("seed", range(12))
def test_ties_earn_the_share_of_tie_breakings_that_win(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 3, (8, 6)).astype(np.float32)
    true = generator.random((8, 6)) < 0.35
    true[np.arange(8), generator.integers(0, 5, 8)] = True
    scores[:4, 5] = np.nan  # four items have but five candidates
    standing = rank(scores, true)
    for k in (1, 2, 3, 5, 6):
        expected = [enumerated(row, right, k)[0] for row, right in zip(scores, true, strict=True)]
        np.testing.assert_allclose(standing.hits(k), expected, atol=1e-12)
    expected = [enumerated(row, right, 1)[1] for row, right in zip(scores, true, strict=True)]
    np.testing.assert_allclose(standing.ranks(), expected, atol=1e-12)


def test_without_ties_it_is_the_sorted_order() -> None:
    generator = np.random.default_rng(0)
    scores = generator.permuted(np.tile(np.arange(40, dtype=np.float32), (30, 1)), axis=1)
    true = generator.random((30, 40)) < 0.1
    true[:, 0] = True
    order = np.argsort(-scores, axis=1)
    first = np.take_along_axis(true, order, axis=1).argmax(axis=1)
    standing = rank(scores, true)
    for k in (1, 5, 10):
        np.testing.assert_array_equal(standing.hits(k), first < k)
    np.testing.assert_array_equal(standing.ranks(), first + 1)
    np.testing.assert_array_equal(standing.best_I, order[:, 0])
    assert not standing.tied_I.any()


def test_many_rows_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    scores, true = generator.integers(0, 4, (50, 7)).astype(np.float32), np.eye(50, 7, dtype=bool) | (np.arange(7) == 2)
    whole = rank(scores, true)
    monkeypatch.setattr("chiasm.evaluation.ranking._CELLS", 20)
    parts = rank(scores, true)
    np.testing.assert_array_equal(whole.hits(2), parts.hits(2))
    np.testing.assert_array_equal(whole.tied_I, parts.tied_I)


@pytest.mark.parametrize("right", [1, 2, 4])
def test_chance_is_the_mean_over_all_rankings(right: int) -> None:
    true = np.arange(5) < right
    rankings = np.array(list(permutations(range(5))), np.float32)
    for k in (1, 2, 3):
        standing = rank(rankings, np.tile(true, (len(rankings), 1)))
        chance = hit_share(np.array([0]), np.array([5]), np.array([right]), k)
        assert standing.hits(k).mean() == pytest.approx(chance[0], abs=1e-12)


def test_chance_is_hypergeometric() -> None:
    candidates, right = np.array([2500, 2500, 10, 6, 1]), np.array([5, 1, 9, 6, 1])
    for k in (1, 5, 10):
        expected = [
            1 - comb(n - m, k) / comb(n, min(n, k))
            for n, m in zip([2500, 2500, 10, 6, 1], [5, 1, 9, 6, 1], strict=True)
        ]
        np.testing.assert_allclose(hit_share(np.zeros(5, np.int64), candidates, right, k), expected, rtol=1e-9)


def test_an_item_without_scores_failed_and_earns_nothing() -> None:
    scores = np.array([[np.nan, np.nan], [1, np.nan], [-np.inf, 0]], np.float32)
    true = np.array([[True, False], [False, True], [True, False]])
    standing = rank(scores, true)
    assert standing.failed_I.tolist() == [True, True, False]
    assert standing.hits(2).tolist() == [0, 0, 1]
    assert standing.ranks().tolist() == [np.inf, np.inf, 2]
