"""How far a score can be trusted: bootstrap intervals, and whether two models differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chiasm.errors import DataError
from chiasm.evaluation.confidence import Calibration, calibration
from chiasm.evaluation.result import Lenient, Score
from chiasm.evaluation.task import Corpus, MetricCounts

RESAMPLES = 1000
_CELLS = 4_000_000  # drawn indices held at once; bounds memory


def resampled_means(
    values_I: NDArray[np.float64],
    samples: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
    weight_I: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """(R,) means of bootstrap resamples (Efron 1979). Samples are drawn, each with all of its items.

    weight_I: the metric is a ratio of sums, and so it is in each resample; 0 where all weights drawn are 0.

    Items of one picture rise and fall together; drawn apart they would make the interval too narrow (the cluster
    bootstrap, Davison & Hinkley 1997, section 3.8). With one item a sample it is the ordinary bootstrap.
    """
    weight_I = np.ones_like(values_I) if weight_I is None else weight_I
    sums_R2 = resampled_sums(np.stack([values_I, weight_I], axis=1), samples, resamples, seed)
    return _ratio(sums_R2[:, 0], sums_R2[:, 1])


def resampled_sums(
    values_IS: NDArray[np.float64], samples: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """(R, S) sums over the items of bootstrap resamples; samples are drawn, each with all of its items."""
    index = {sample: at for at, sample in enumerate(dict.fromkeys(samples))}
    of_I = np.fromiter((index[sample] for sample in samples), np.int64, len(samples))
    columns = [np.bincount(of_I, weights=values_I, minlength=len(index)) for values_I in values_IS.T]
    sums_NS = np.stack(columns, axis=1)  # of each sample
    generator = np.random.default_rng(seed)
    rows = max(1, _CELLS // len(index))
    sums = []
    for at in range(0, resamples, rows):
        drawn = generator.integers(0, len(index), (min(rows, resamples - at), len(index)))
        cells = drawn + len(index) * np.arange(len(drawn))[:, None]
        times_RN = np.bincount(cells.ravel(), minlength=drawn.size).reshape(drawn.shape)
        sums.append(times_RN @ sums_NS)
    return np.concatenate(sums)


def interval(means_R: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """The percentile interval: what lies between the outer (1 - level) / 2 on either side."""
    low, high = np.quantile(means_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def scores_of(
    metrics: Sequence[MetricCounts], baselines: Mapping[str, Sequence[MetricCounts]], seed: int = 0
) -> tuple[Score, ...]:
    """Every metric over all items, and then by kind where it asks for that.

    baselines: the same metrics of other responses to the same requests, in the same order.
    """
    found = []
    for at, metric in enumerate(metrics):
        others = {name: measured[at] for name, measured in baselines.items()}
        found.append(_score(metric, others, np.arange(len(metric.credit_I)), "", seed))
        found += [_score(metric, others, members, kind, seed) for kind, members in reported_kinds(metric).items()]
    return tuple(found)


def figure_of(metric: MetricCounts, members: NDArray[np.int64] | None = None) -> float:
    """The metric over all items, or over some of them."""
    if metric.corpus is not None:
        counts_IS = metric.corpus.counts_IS if members is None else metric.corpus.counts_IS[members]
        return float(metric.corpus.of(counts_IS.sum(axis=0, keepdims=True))[0])
    return value_of(metric, metric.credit_I) if members is None else mean_of(metric, members)


def value_of(metric: MetricCounts, values_I: NDArray[np.float64], weight_I: NDArray[np.float64] | None = None) -> float:
    """The metric: the mean of values over items, or of the kinds' means; a ratio of sums where it has weights.

    weight_I: weights that go with the values; the metric's own by default.
    """
    weight_I = metric.weight_I if weight_I is None else weight_I
    if metric.mean == "kinds":
        return float(np.mean([values_I[members].mean() for members in members_by_kind(metric).values()]))
    return _mean(values_I, weight_I)


def mean_of(metric: MetricCounts, members: NDArray[np.int64]) -> float:
    """The metric over some of the items."""
    return _mean(metric.credit_I[members], None if metric.weight_I is None else metric.weight_I[members])


def _mean(values_I: NDArray[np.float64], weight_I: NDArray[np.float64] | None) -> float:
    return float(values_I.mean()) if weight_I is None else float(_ratio(values_I.sum(), weight_I.sum()))


def _ratio(over: NDArray[np.float64], under: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(under > 0, over / np.where(under > 0, under, 1.0), 0.0)


def calibration_of(metric: MetricCounts) -> Calibration | None:
    """How far the confidence in a metric's items can be trusted; None where they have none, or are no mean."""
    if metric.items.confidence is None or metric.weight_I is not None or metric.corpus is not None:
        return None
    confidence_I = metric.items.confidence()
    known_I = ~np.isnan(confidence_I)
    return calibration(confidence_I[known_I], metric.credit_I[known_I]) if known_I.any() else None


def members_by_kind(metric: MetricCounts) -> dict[str, NDArray[np.int64]]:
    """Indices of the items of each kind, kinds sorted; items of no kind are left out."""
    kinds = np.array(metric.items.kinds)
    return {str(kind): np.flatnonzero(kinds == kind) for kind in np.unique(kinds) if kind}


def reported_kinds(metric: MetricCounts) -> dict[str, NDArray[np.int64]]:
    """Indices of the items of each kind that has a score of its own: none where there is but one kind."""
    kinds = members_by_kind(metric) if metric.by_kind else {}
    return kinds if len(kinds) > 1 else {}


def _score(
    metric: MetricCounts, others: Mapping[str, MetricCounts], members: NDArray[np.int64], kind: str, seed: int
) -> Score:
    if metric.corpus is not None:
        return _corpus_score(metric, metric.corpus, others, members, kind, seed)
    # A mean of kinds' means keeps the weight of every kind: kinds are resampled apart from each other.
    parts = list(members_by_kind(metric).values()) if metric.mean == "kinds" else [members]
    low, high = _interval(metric, parts, seed)

    def over(counted: MetricCounts, values_I: NDArray[np.float64], weight_I: NDArray[np.float64] | None) -> float:
        if len(members) == len(values_I):
            return value_of(counted, values_I, weight_I)
        return _mean(values_I[members], None if weight_I is None else weight_I[members])

    lenient = None
    if metric.lenient is not None:
        bounds = _interval(metric.lenient, parts, seed)
        value = over(metric.lenient, metric.lenient.credit_I, metric.lenient.weight_I)
        lenient = Lenient(value, *bounds, unparsed=_share(metric.lenient.items.unparsed_I, members))
    return Score(
        name=metric.name,
        value=over(metric, metric.credit_I, metric.weight_I),
        low=low,
        high=high,
        items=len(members),
        chance=over(metric, metric.chance_I, metric.chance_weight_I),
        group=kind,
        baselines={name: over(other, other.credit_I, other.weight_I) for name, other in others.items()},
        ties=float(metric.items.tied_I[members].mean()),
        failed=int(metric.items.failed_I[members].sum()),
        unparsed=_share(metric.items.unparsed_I, members),
        lenient=lenient,
    )


def _interval(metric: MetricCounts, parts: Sequence[NDArray[np.int64]], seed: int) -> tuple[float, float]:
    means_PR = [
        resampled_means(
            metric.credit_I[part],
            [metric.items.samples[item] for item in part.tolist()],
            seed=seed + at,
            weight_I=None if metric.weight_I is None else metric.weight_I[part],
        )
        for at, part in enumerate(parts)
    ]
    return interval(np.mean(means_PR, axis=0))


def _share(flags_I: NDArray[np.bool_] | None, members: NDArray[np.int64]) -> float:
    return 0.0 if flags_I is None else float(flags_I[members].mean())


def _corpus_score(
    metric: MetricCounts,
    corpus: Corpus,
    others: Mapping[str, MetricCounts],
    members: NDArray[np.int64],
    kind: str,
    seed: int,
) -> Score:
    samples = [metric.items.samples[item] for item in members.tolist()]
    low, high = interval(corpus.of(resampled_sums(corpus.counts_IS[members], samples, seed=seed)))
    return Score(
        name=metric.name,
        value=figure_of(metric, members),
        low=low,
        high=high,
        items=len(members),
        chance=0.0,
        group=kind,
        baselines={name: figure_of(other, members) for name, other in others.items()},
        failed=int(metric.items.failed_I[members].sum()),
    )


@dataclass(frozen=True)
class Difference:
    """How two models differ on one metric of the same items.

    value: the first model's figure minus the second's; low, high: its 95% paired bootstrap interval, over samples.
    first, second: the figures. wins, losses: items that the first or the second did better.
    p: how likely a difference this far from none is, if there were none, two-sided. test: "McNemar" where every item is
        right or wrong (exact; how uneven the split of the items that differ is), else "bootstrap", from the resamples.
    """

    name: str
    value: float
    low: float
    high: float
    wins: int
    losses: int
    p: float
    items: int
    test: str = "McNemar"
    first: float = 0.0
    second: float = 0.0


Weights = tuple[Mapping[str, float], Mapping[str, float]]


def compare(
    name: str,
    first: Mapping[str, float],
    second: Mapping[str, float],
    samples: Mapping[str, str],
    seed: int = 0,
    weights: Weights | None = None,
) -> Difference:
    """Two models item by item. first, second: credit by item key; samples: the sample of each item.

    weights: of both models' items, where the metric is a ratio of sums.
    Raises DataError if they were not asked the same items.
    """
    if odd := first.keys() ^ second.keys():
        raise DataError(
            f"{name}: {len(odd)} items were asked of one model only, such as '{min(odd)}'; "
            "evaluate both with the same task and data"
        )
    keys, of = list(first), [samples[key] for key in first]
    credits_2I = [np.array([credit[key] for key in keys]) for credit in (first, second)]
    weights_2I = [None, None] if weights is None else [np.array([weight[key] for key in keys]) for weight in weights]
    pairs = list(zip(credits_2I, weights_2I, strict=True))
    ours, theirs = (_mean(credit_I, weight_I) for credit_I, weight_I in pairs)
    # The same seed draws the same samples for both: the bootstrap is paired.
    means_R, others_R = (resampled_means(credit_I, of, seed=seed, weight_I=weight_I) for credit_I, weight_I in pairs)
    gains_R = means_R - others_R
    low, high = interval(gains_R)
    gain_I = credits_2I[0] - credits_2I[1]
    wins, losses = int((gain_I > 0).sum()), int((gain_I < 0).sum())
    plain = weights is None and all(np.isin(credit_I, (0.0, 1.0)).all() for credit_I in credits_2I)
    p = mcnemar(wins, losses) if plain else _bootstrap_p(gains_R)
    test = "McNemar" if plain else "bootstrap"
    return Difference(name, ours - theirs, low, high, wins, losses, p, len(keys), test, ours, theirs)


def holm(p: Sequence[float]) -> list[float]:
    """p corrected for their number (Holm 1979): the chance of any false alarm among them stays below each."""
    order = sorted(range(len(p)), key=p.__getitem__)
    found, least = [0.0] * len(p), 0.0
    for position, at in enumerate(order):
        least = max(least, min(1.0, (len(p) - position) * p[at]))
        found[at] = least
    return found


def _bootstrap_p(gains_R: NDArray[np.float64]) -> float:
    """Twice the share of resamples at or beyond no difference; one is added to both counts, so that it is never 0."""
    fewer = min((gains_R <= 0).sum(), (gains_R >= 0).sum())
    return min(1.0, 2 * (int(fewer) + 1) / (len(gains_R) + 1))


def mcnemar(wins: int, losses: int) -> float:
    """Two-sided p of the exact McNemar test (a sign test on the items that differ): 2 P(Binomial(n, 1/2) <= fewer)."""
    count, fewer = wins + losses, min(wins, losses)
    return min(1.0, 2 * sum(_binomials(count, fewer)) / 2**count)


def _binomials(count: int, last: int) -> Iterator[int]:
    ways = 1
    for chosen in range(last + 1):
        yield ways
        ways = ways * (count - chosen) // (chosen + 1)
