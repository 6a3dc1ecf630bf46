"""The linear probe: its fit is that of scikit-learn, its items are the test samples, and its baselines know nothing."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from chiasm.config import dump, parse
from chiasm.data.sample import Sample
from chiasm.errors import DataError, RecipeError
from chiasm.evaluation.logistic import fit
from chiasm.evaluation.request import Failed
from chiasm.evaluation.run import evaluate, quick_scores
from chiasm.evaluation.statistics import value_of
from chiasm.evaluation.task import Task
from chiasm.evaluation.tasks.linear_probe import LinearProbe
from tests.evaluation.fakes import FunctionScorer, HashEmbedder, Listed, number_of, picture, undecodable
from tests.worlds import Patches, tiny_clip


def _sklearn() -> Any:
    return pytest.importorskip("sklearn.linear_model", reason="the peer of the probe: pip install scikit-learn")


def _drawn(count: int, width: int = 24, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit vectors of overlapping classes, away from the origin, as embeddings are."""
    generator = torch.Generator().manual_seed(seed)
    centre_CD = torch.randn(classes, width, generator=torch.Generator().manual_seed(9))
    label_N = torch.randint(0, classes, (count,), generator=generator)
    x_ND = 3 + centre_CD[label_N] + 2 * torch.randn(count, width, generator=generator)
    return torch.nn.functional.normalize(x_ND, dim=1), label_N


@pytest.mark.parametrize("strength", [1e-2, 0.1, 3.0])
def test_the_fit_is_that_of_scikit_learn(strength: float) -> None:
    x_ND, label_N = _drawn(300)
    test_ND, test_N = _drawn(400, seed=1)
    ours = fit(x_ND, label_N, 5, strength)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = _sklearn().LogisticRegression(C=1 / strength, max_iter=20_000, tol=1e-8).fit(x_ND.double(), label_N)
    weight_CD, bias_C = torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_)
    logits_NC = x_ND.double() @ weight_CD.T + bias_C
    loss = torch.nn.functional.cross_entropy(logits_NC, label_N, reduction="sum")
    minimum = float(loss + strength / 2 * weight_CD.square().sum())
    assert ours.loss == pytest.approx(minimum, rel=1e-4)
    accuracy = float((ours(test_ND).argmax(1) == test_N).double().mean())
    assert accuracy == pytest.approx(theirs.score(test_ND.double(), test_N), abs=1e-4)
    torch.testing.assert_close(
        ours(test_ND).softmax(1), torch.from_numpy(theirs.predict_proba(test_ND.double())), atol=2e-3, rtol=0
    )
    assert 0.3 < accuracy < 0.99


def test_a_warm_start_finds_the_same_minimum() -> None:
    x_ND, label_N = _drawn(200)
    cold = fit(x_ND, label_N, 5, 0.05)
    warm = fit(x_ND, label_N, 5, 0.05, start=fit(x_ND, label_N, 5, 5.0))
    assert warm.loss == pytest.approx(cold.loss, rel=1e-6)
    torch.testing.assert_close(warm(x_ND), cold(x_ND), atol=1e-2, rtol=0)


class Numbers:
    """One direction of a picture's embedding is the parity of its number, the others are noise."""

    def embed_images(self, images: Any) -> Tensor:
        rows = [np.random.default_rng(number_of(one) + 1).normal(size=8) for one in images]
        parity = [[2.0 * (-1) ** number_of(one)] for one in images]
        return torch.nn.functional.normalize(torch.tensor(np.hstack([parity, rows]), dtype=torch.float32), dim=1)

    def embed_texts(self, texts: Any) -> Tensor:
        return torch.zeros(len(texts), 9)


def _listed(numbers: range) -> Listed:
    return Listed(tuple(Sample(f"n{n}", (picture(n),), label=("even", "odd")[n % 2]) for n in numbers))


def _task(**changes: Any) -> LinearProbe:
    return replace(LinearProbe(_listed(range(200, 260)), train=_listed(range(120))), **changes)


def test_items_are_the_test_samples_and_baselines_know_nothing(tmp_path: Path) -> None:
    result = evaluate(Numbers(), [_task(shots=(1, 8))], tmp_path, progress=False).results[0]
    by_name = {score.name: score for score in result.scores}
    assert list(by_name) == ["top-1 accuracy", "mean per class", "1-shot accuracy", "8-shot accuracy"]
    full = by_name["top-1 accuracy"]
    assert (full.items, full.chance, full.failed) == (60, 0.5, 0)
    assert full.value > 0.9
    assert by_name["1-shot accuracy"].value < by_name["8-shot accuracy"].value <= full.value + 0.05
    assert full.baselines["constant"] == pytest.approx(0.5, abs=0.01)
    assert full.baselines["blind"] == pytest.approx(0.5, abs=0.01)
    assert abs(full.baselines["shuffled"] - 0.5) < 0.25
    assert result.facts["pictures to learn from"] == 120
    assert result.calibration is not None
    lines = (tmp_path / "answers" / "linear_probe.jsonl").read_text().splitlines()
    assert len(lines) == 60


def test_the_strength_is_chosen_on_what_is_not_learned_from() -> None:
    """Random vectors: with the training samples for validation the weakest would win, with others' none should."""
    task = LinearProbe(_listed(range(500, 560)), train=_listed(range(300)))
    answers = [HashEmbedder(64).embed_images(one.images).numpy() for one in task.requests if hasattr(one, "images")]
    probed = task._probed(task.requests, answers)
    learned, chosen = probed.kept
    assert not set(learned) & set(chosen)
    assert len(chosen) == 60
    facts = task.measure(task.requests, answers).facts
    assert facts["L2 strength"] == probed.swept(learned)
    x_ND, label_N = probed.x_ND[chosen], probed.label_N[chosen]

    def right(strength: float) -> float:
        return float((probed.fitted(learned, strength)(x_ND).argmax(1) == label_N).double().mean())

    assert right(facts["L2 strength"]) >= max(right(one) for one in (1e-4, 1e-2, 1.0, 1e2, 1e4))


def test_what_cannot_be_read_counts_as_wrong_only_where_it_is_asked(tmp_path: Path) -> None:
    test = Listed((*_listed(range(200, 210)).samples, Sample("bad", (undecodable(),), label="odd")))
    train = Listed((*_listed(range(60)).samples, Sample("bad", (undecodable(),), label="odd")))
    result = evaluate(Numbers(), [LinearProbe(test, train=train, strength=0.1)], tmp_path, progress=False).results[0]
    assert (result.headline.items, result.headline.failed) == (11, 1)
    assert result.headline.value == pytest.approx(10 / 11)
    assert result.facts["pictures to learn from"] == 60
    assert result.facts["pictures to learn from that failed"] == 1


def test_kshot_draws_k_of_each_class_and_says_where_there_are_fewer() -> None:
    task = _task(strength=0.1)
    answers = [Numbers().embed_images(one.images).numpy() for one in task.requests if hasattr(one, "images")]
    probed = task._probed(task.requests, answers)
    rows = probed.drawn(3, seed=1)
    assert sorted(probed.label_N[rows].tolist()) == [0, 0, 0, 1, 1, 1]
    assert not set(rows) & set(probed.kept[1])
    assert rows != probed.drawn(3, seed=2)
    with pytest.raises(DataError, match="too few for 99 shots"):
        probed.drawn(99, seed=0)


def test_a_real_model_is_probed_and_a_scorer_refused(tmp_path: Path) -> None:
    task = LinearProbe(Patches(16), train=Patches(64), strength=1.0)
    found = quick_scores(tiny_clip(), [task])
    assert found["linear_probe: top-1 accuracy"] > 0.3  # of the eight colours on the left; chance is 0.125
    with pytest.raises(Exception, match="needs a model that can embed"):
        evaluate(FunctionScorer(lambda number, text: 0.0), [task], tmp_path, progress=False)


def test_wrong_entries_are_told() -> None:
    entries = {"task": "linear_probe", "data": {"source": "scenes", "count": 3}}
    with pytest.raises(RecipeError, match="train must be given"):
        parse(Task, entries)  # type: ignore[type-abstract]  # a choice of the room is built
    for wrong in ({"validation": 1.0}, {"strength": 0.0}, {"draws": 0}, {"shots": [0]}):
        with pytest.raises(RecipeError, match="linear_probe"):
            parse(Task, {**entries, "train": {"source": "scenes", "count": 3}, **wrong})  # type: ignore[type-abstract]  # likewise
    task = _task()
    one_class = replace(task, train=Listed(_listed(range(60)).samples[::2]))
    answers = [np.ones((1, 3), np.float32) for _ in one_class.requests]
    with pytest.raises(DataError, match="only one"):
        one_class.measure(one_class.requests, answers)
    with pytest.raises(DataError, match="no image to learn from"):
        task.measure(task.requests, [Failed("gone") for _ in task.requests])
    value = value_of(
        *(lambda metric: (metric, metric.credit_I))(
            task.measure(task.requests, [np.ones((1, 3), np.float32) for _ in task.requests]).metrics[0]
        )
    )
    assert value == pytest.approx(0.5, abs=0.01)
    assert dump(task)["task"] == "linear_probe"
