"""Calibration against closed forms and scikit-learn."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from chiasm.evaluation import confidence
from chiasm.evaluation.confidence import calibration, confidences, fit_temperature
from chiasm.evaluation.run import evaluate, quick_scores
from chiasm.evaluation.tasks.pairs import Pairs
from tests.evaluation.fakes import HashEmbedder, world


def softmax(scores: np.ndarray) -> np.ndarray:
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def drawn(count: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and answers drawn from their softmax at a temperature: it is the one that makes them calibrated."""
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(count, 4)).astype(np.float32)
    answers = [generator.choice(4, p=row) for row in softmax(scores.astype(float) / temperature)]
    return scores, np.eye(4, dtype=bool)[answers]


@pytest.mark.parametrize("temperature", [0.01, 0.3, 2.0])
def test_the_temperature_that_made_the_answers_is_found(temperature: float) -> None:
    scores, true = drawn(4000, temperature)
    assert fit_temperature(scores, true) == pytest.approx(temperature, rel=0.15)
    samples = [str(at) for at in range(4000)]
    found = confidences(scores, true, samples)
    np.testing.assert_allclose(found, softmax(scores.astype(float) / temperature).max(axis=1), atol=0.06)
    credit = true[np.arange(4000), scores.argmax(axis=1)].astype(float)
    assert calibration(found, credit).error < 0.03


def test_confidence_does_not_depend_on_the_unit_of_scores_nor_on_an_items_own_answer() -> None:
    scores, true = drawn(400, 0.3)
    samples = [str(at) for at in range(400)]
    found = confidences(scores, true, samples)
    np.testing.assert_allclose(confidences(scores * 100, true, samples), found, atol=0.03)
    changed = true.copy()
    changed[7] = np.roll(changed[7], 1)
    assert confidences(scores, changed, samples)[7] == found[7]
    scores[3] = np.nan
    assert np.isnan(confidences(scores, true, samples)[3])
    assert np.isnan(confidences(scores[:1], true[:1], samples[:1])).all()


def test_bins_are_those_of_scikit_learn() -> None:
    calibration_curve = pytest.importorskip("sklearn.calibration").calibration_curve
    generator = np.random.default_rng(1)
    confidence = generator.uniform(0.25, 1, 700)
    credit = (generator.random(700) < confidence**2).astype(float)
    found = calibration(confidence, credit)
    shares, means = calibration_curve(credit, confidence, n_bins=10)
    np.testing.assert_allclose([one.accuracy for one in found.bins], shares)
    np.testing.assert_allclose([one.confidence for one in found.bins], means)
    items = [one.items for one in found.bins]
    assert found.error == pytest.approx(np.average(np.abs(shares - means), weights=items))
    assert sum(items) == 700


def test_the_area_is_the_mean_risk_over_all_coverages() -> None:
    found = calibration(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1.0, 0.0, 1.0, 0.0]))
    assert found.area == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    assert found.best == pytest.approx((0 + 0 + 1 / 3 + 2 / 4) / 4)
    assert found.coverage == (0.25, 0.5, 0.75, 1.0)
    assert found.risk == pytest.approx((0.0, 1 / 2, 1 / 3, 1 / 2), abs=1e-6)
    assert calibration(np.full(50, 0.5), np.repeat([0.0, 1.0], 25)).area == pytest.approx(0.5)


@given(st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.9]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=5))
def test_equal_confidences_share_the_mean_over_their_orders(items: list[tuple[float, float]]) -> None:
    areas = []
    for order in permutations(items):
        ranked = sorted(order, key=lambda one: -one[0])  # stable: ties stay in this order
        wrong = np.cumsum([1 - credit for _, credit in ranked])
        areas.append((wrong / np.arange(1, len(items) + 1)).mean())
    confidence, credit = (np.array(column) for column in zip(*items, strict=True))
    assert calibration(confidence, credit).area == pytest.approx(np.mean(areas))


def test_a_temperature_is_fitted_only_where_it_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluation in training and the baselines have no use for it, and with many classes it takes long."""
    fitted: list[int] = []
    fit = confidence.fit_temperature

    def counted(scores_IC: NDArray[np.float32], true_IC: NDArray[np.bool_]) -> float:
        fitted.append(len(scores_IC))
        return fit(scores_IC, true_IC)

    monkeypatch.setattr(confidence, "fit_temperature", counted)
    quick_scores(HashEmbedder(), [Pairs(world(20))])
    assert fitted == []
    (result,) = evaluate(HashEmbedder(), [Pairs(world(20))], tmp_path, progress=False).results
    assert result.calibration is not None
    assert len(fitted) == 2, "once for each half of the samples"
