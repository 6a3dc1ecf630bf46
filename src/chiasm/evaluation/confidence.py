"""How far a model's confidence can be trusted: calibration, and what it gains by keeping silent when unsure.

Scores of different families have different units: a cosine, a logit, a log-likelihood. So confidence is the softmax
over an item's candidates at one temperature, fitted by maximum likelihood (Guo et al. 2017, arXiv:1706.04599) on one
half of the samples and applied to the other, and the other way round: no item helps to choose its own temperature.
What is judged is therefore how well scores rank and scale after that one fit, not the temperature of training."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 10
_POINTS = 100  # of the curve that is kept
_FITTED = 4000  # items a temperature is fitted on; more change nothing that is seen
_GRID = np.exp(np.linspace(np.log(1e-4), np.log(1e4), 81))


@dataclass(frozen=True)
class Bin:
    """Items of like confidence: how many, their mean confidence, and the share that is right."""

    items: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """bins: equally wide, 0 to 1, empty ones left out. error: expected calibration error, the mean over items of
    |confidence - accuracy| of their bin. risk: share of wrong ones among the most confident, at the given coverage.
    area: mean risk over all coverages (AURC, Geifman & El-Yaniv 2017, arXiv:1705.08500). best: the least area that any
    order of these items could have.
    """

    bins: tuple[Bin, ...]
    error: float
    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    area: float
    best: float


def confidences(
    scores_IC: NDArray[np.float32], true_IC: NDArray[np.bool_], samples: Sequence[str]
) -> NDArray[np.float64]:
    """(I,) the probability of each item's best candidate; NaN where it has no scores. A score of NaN is no candidate.

    All NaN where a half of the samples holds nothing to fit a temperature on.
    """
    found_I = np.full(len(scores_IC), np.nan)
    asked_I = (~np.isnan(scores_IC) & true_IC).any(axis=1) if len(scores_IC) else np.zeros(0, np.bool_)
    half_I = np.array([hashlib.blake2b(sample.encode(), digest_size=1).digest()[0] % 2 for sample in samples], np.bool_)
    halves = [np.flatnonzero(asked_I & (half_I == half)) for half in (False, True)]
    if min(map(len, halves)) == 0:
        return found_I
    for fitted, applied in (halves, halves[::-1]):
        temperature = fit_temperature(scores_IC[fitted[:_FITTED]], true_IC[fitted[:_FITTED]])
        found_I[applied] = np.exp(_log_softmax(scores_IC[applied], temperature)).max(axis=1, initial=0.0)
    return found_I


def fit_temperature(scores_IC: NDArray[np.float32], true_IC: NDArray[np.bool_]) -> float:
    """The temperature under which the true candidates are likeliest, to 5%: a grid, then a finer one around its best.

    Several true candidates of one item count by the sum of their probabilities.
    """

    def loss(temperature: float) -> float:
        log_p_IC = _log_softmax(scores_IC, temperature)
        return -float(np.log(np.where(true_IC, np.exp(log_p_IC), 0).sum(axis=1).clip(1e-300)).mean())

    best = min(_GRID.tolist(), key=loss)
    return min((best * factor for factor in np.geomspace(0.8, 1.25, 9).tolist()), key=loss)


def calibration(confidence_I: NDArray[np.float64], credit_I: NDArray[np.float64]) -> Calibration:
    """Bins, and the curve of risk over coverage. Items of equal confidence are in any order alike: they share the mean
    of their credits."""
    place_I = np.minimum((confidence_I * BINS).astype(np.int64), BINS - 1)
    members = [np.flatnonzero(place_I == place) for place in range(BINS)]
    bins = tuple(
        Bin(len(items), float(confidence_I[items].mean()), float(credit_I[items].mean()))
        for items in members
        if len(items)
    )
    error = sum(bucket.items * abs(bucket.confidence - bucket.accuracy) for bucket in bins) / len(confidence_I)
    risk_I = _risks(confidence_I, credit_I)
    kept = np.unique(np.linspace(0, len(risk_I) - 1, min(_POINTS, len(risk_I))).round().astype(np.int64))
    return Calibration(
        bins=bins,
        error=error,
        coverage=tuple(((kept + 1) / len(risk_I)).round(6).tolist()),
        risk=tuple(risk_I[kept].round(6).tolist()),
        area=float(risk_I.mean()),
        best=float(_risks(credit_I, credit_I).mean()),
    )


def _risks(confidence_I: NDArray[np.float64], credit_I: NDArray[np.float64]) -> NDArray[np.float64]:
    """(I,) the share of wrong ones among the 1, 2, ... most confident items."""
    _, group_I = np.unique(-confidence_I, return_inverse=True)
    shared_I = (np.bincount(group_I, weights=1 - credit_I) / np.bincount(group_I))[np.sort(group_I)]
    return np.cumsum(shared_I) / np.arange(1, len(shared_I) + 1)


def _log_softmax(scores_IC: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    scaled_IC = np.where(np.isnan(scores_IC), -np.inf, scores_IC.astype(np.float64) / temperature)
    scaled_IC -= scaled_IC.max(axis=1, keepdims=True)
    return scaled_IC - np.log(np.exp(scaled_IC).sum(axis=1, keepdims=True))
