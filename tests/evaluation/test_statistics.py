"""Intervals against scipy's, tests against the binomial distribution."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest

from chiasm.errors import DataError
from chiasm.evaluation.statistics import compare, interval, mcnemar, resampled_means, scores_of, value_of
from chiasm.evaluation.task import Items, MetricCounts


def metric(credit: list[float], kinds: list[str], samples: list[str] | None = None, **rest: object) -> MetricCounts:
    count = len(credit)
    keys = tuple(f"i{at}" for at in range(count))
    none = np.zeros(count, np.bool_)
    items = Items(keys, tuple(samples or keys), tuple(kinds), none, none, ("",) * count)
    return MetricCounts("accuracy", items, np.array(credit, float), np.full(count, 0.25), **rest)  # type: ignore[arg-type]  # test


def binomial_p(wins: int, losses: int) -> float:
    """Two-sided p of a fair coin, by its definition: all outcomes no likelier than the one seen."""
    ways = [comb(wins + losses, heads) for heads in range(wins + losses + 1)]
    return float(Fraction(sum(one for one in ways if one <= ways[wins]), sum(ways)))


def test_one_item_a_sample_is_scipys_percentile_bootstrap() -> None:
    stats = pytest.importorskip("scipy.stats")
    credit = np.random.default_rng(1).random(83).round(1)
    theirs = stats.bootstrap(
        (credit,), np.mean, method="percentile", n_resamples=1000, rng=np.random.default_rng(0), vectorized=True
    )
    means = resampled_means(credit, [str(at) for at in range(83)])
    np.testing.assert_allclose(np.sort(means), np.sort(theirs.bootstrap_distribution), atol=1e-12)
    np.testing.assert_allclose(interval(means), theirs.confidence_interval, atol=1e-12)


def test_items_of_one_sample_are_drawn_together() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(2)
    samples = [str(at) for at in generator.integers(0, 30, 200)]
    credit = generator.random(200) < 0.6

    def ratio(sums: np.ndarray, sizes: np.ndarray, axis: int = -1) -> np.ndarray:
        return sums.sum(axis=axis) / sizes.sum(axis=axis)

    names = list(dict.fromkeys(samples))
    sums = np.array([sum(credit[at] for at in range(200) if samples[at] == name) for name in names], float)
    sizes = np.array([samples.count(name) for name in names], float)
    theirs = stats.bootstrap((sums, sizes), ratio, paired=True, method="percentile", n_resamples=4000, rng=5)
    ours = interval(resampled_means(credit.astype(float), samples, resamples=4000))
    np.testing.assert_allclose(ours, theirs.confidence_interval, atol=0.01)


def test_copies_of_an_item_do_not_narrow_the_interval() -> None:
    credit = (np.random.default_rng(3).random(40) < 0.5).astype(float)
    once = interval(resampled_means(credit, [str(at) for at in range(40)]))
    tenfold = interval(resampled_means(np.tile(credit, 10), [str(at) for at in range(40)] * 10))
    assert once == pytest.approx(tenfold)
    samples = [str(at) for at in range(40)] * 10
    (score,) = scores_of([metric(credit.tolist() * 10, [""] * 400, samples)], {})
    assert (score.low, score.high) == pytest.approx(once)


def test_large_data_are_resampled_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    credit, samples = np.random.default_rng(4).random(50), [str(at) for at in range(50)]
    whole = resampled_means(credit, samples)
    monkeypatch.setattr("chiasm.evaluation.statistics._CELLS", 333)
    np.testing.assert_allclose(whole, resampled_means(credit, samples))


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (5, 0), (7, 12), (10, 10), (300, 260), (600, 560)])
def test_mcnemar_is_the_binomial_test(wins: int, losses: int) -> None:
    assert mcnemar(wins, losses) == pytest.approx(binomial_p(wins, losses), rel=1e-12)


def test_compare_pairs_items_by_key() -> None:
    first = {f"i{at}": float(at % 3 != 0) for at in range(90)}
    second = {f"i{at}": float(at % 2 != 0) for at in reversed(range(90))}
    found = compare("accuracy", first, second, {key: key for key in first})
    assert (found.wins, found.losses, found.items) == (30, 15, 90)
    assert found.value == pytest.approx(1 / 6)
    assert found.p == pytest.approx(binomial_p(30, 15))
    assert found.low < found.value < found.high
    same = compare("accuracy", first, first, {key: key for key in first})
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_compare_refuses_unlike_items() -> None:
    with pytest.raises(DataError, match=r"1 items were asked of one model only, such as 'b'"):
        compare("accuracy", {"a": 1.0, "b": 0.0}, {"a": 1.0}, {"a": "a", "b": "b"})


def test_scores_by_kind_and_means_of_kinds() -> None:
    credit, kinds = [1, 1, 1, 1, 0, 0.5], ["a", "a", "a", "a", "b", "b"]
    by_kind = scores_of([metric(credit, kinds, by_kind=True)], {"blind": [metric([0.5] * 6, kinds)]})
    assert [(one.group, one.items) for one in by_kind] == [("", 6), ("a", 4), ("b", 2)]
    assert [one.value for one in by_kind] == [pytest.approx(0.75), 1, 0.25]
    assert [one.baselines for one in by_kind] == [{"blind": 0.5}] * 3
    assert (by_kind[1].low, by_kind[1].high) == (1, 1)
    balanced = metric(credit, kinds, mean="kinds")
    (score,) = scores_of([balanced], {})
    assert score.value == value_of(balanced, balanced.credit_I) == pytest.approx((1 + 0.25) / 2)
    assert 0.5 <= score.low <= score.value <= score.high <= 0.75


def test_kinds_are_resampled_apart_from_each_other() -> None:
    """Two kinds alike in their credits: their mean varies as much as that of twice the items, not as one kind's."""
    credit = (np.random.default_rng(6).random(60) < 0.5).astype(float).tolist()
    (one,) = scores_of([metric(credit, ["a"] * 60, mean="kinds")], {})
    (both,) = scores_of([metric(credit * 2, ["a"] * 60 + ["b"] * 60, mean="kinds")], {})
    assert both.value == pytest.approx(one.value)
    assert both.high - both.low == pytest.approx((one.high - one.low) / np.sqrt(2), rel=0.15)
