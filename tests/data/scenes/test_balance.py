"""No answer and no text gives itself away: whoever does not look at the picture is at chance."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pytest

from chiasm.data.sample import Sample
from chiasm.data.sources.scenes import Scenes

pytestmark = pytest.mark.xdist_group("balance")

LIMIT = 4.5  # standard errors: some 300 comparisons are made, so 3 would fail now and then for a sound world


@pytest.fixture(scope="module", params=["uniform", "zipf"])
def samples(request: pytest.FixtureRequest) -> list[Sample]:
    return list(Scenes(4000, seed=31, size=32, frequencies=request.param))


def test_the_right_answer_stands_in_every_place_equally_often(samples: list[Sample]) -> None:
    places: dict[tuple[str, int], Counter[int]] = defaultdict(Counter)
    for sample in samples:
        for question in sample.questions:
            places[question.kind, len(question.choices)][question.choices.index(question.answer)] += 1
    for (kind, choices), counts in places.items():
        total = counts.total()
        for place in range(choices):
            error = math.sqrt(total * (1 - 1 / choices) / choices)
            assert abs(counts[place] - total / choices) < LIMIT * error + 1, (kind, choices, counts)


def test_no_constant_answer_beats_chance(samples: list[Sample]) -> None:
    offers: dict[tuple[str, str], list[tuple[float, bool]]] = defaultdict(list)
    for sample in samples:
        for question in sample.questions:
            for choice in question.choices:
                chance = 1 / len(question.choices)
                offers[question.kind, choice].append((chance, choice == question.answer))
    judged = set()
    for (kind, choice), found in offers.items():
        expected = sum(chance for chance, _ in found)
        if expected < 20:
            continue
        judged.add(kind)
        error = math.sqrt(sum(chance * (1 - chance) for chance, _ in found))
        assert abs(sum(right for _, right in found) - expected) < LIMIT * error, (kind, choice, len(found))
    assert judged >= {"colour", "texture", "size", "count", "position", "relation", "existence", "negation", "reading"}


def _features(text: str) -> set[str]:
    """Words, pairs and triples of neighbours, and pairs of words at any distance."""
    words = ["^", *text.replace(",", "").split()]
    runs = {"_".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)}
    return runs | {f"{one}..{other}" for i, one in enumerate(words) for other in words[i + 1 :]}


def _without_looking(pairs: Sequence[tuple[str, str]]) -> tuple[float, int]:
    """How often a linear model of the texts alone prefers the true one in pairs that it has not seen.

    Returns the share and the number of pairs. The model is a logistic regression trained by gradient descent, with
    2,000 steps or more; it learns the law of a language that leaks within a few hundred.
    """
    order = np.random.default_rng(0).permutation(len(pairs))
    features = [(_features(true), _features(false)) for true, false in pairs]
    weights: dict[str, float] = defaultdict(float)

    def margin(i: int) -> float:
        true, false = features[i]
        return sum(weights[f] for f in true - false) - sum(weights[f] for f in false - true)

    cut = len(pairs) * 6 // 10
    for rate in (0.1, 0.05, 0.03):
        for i in order[:cut]:
            step = rate / (1 + math.exp(min(50.0, margin(i))))
            for feature in features[i][0] - features[i][1]:
                weights[feature] += step
            for feature in features[i][1] - features[i][0]:
                weights[feature] -= step
    wins = [float(margin(i) > 0) + 0.5 * (margin(i) == 0) for i in order[cut:]]
    return float(np.mean(wins)), len(wins)


def test_no_text_tells_whether_it_is_true() -> None:
    pairs: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for sample in Scenes(4000, seed=32, size=32):
        for negative in sample.negatives:
            pairs[negative.kind].append((negative.true, negative.text))
        for question in sample.questions:
            right = question.choices.index(question.answer)
            pairs[question.kind].append((question.statements[right], question.statements[right - 1]))
    assert len(pairs) == 17
    for kind, those in pairs.items():
        share, number = _without_looking(those)
        assert abs(share - 0.5) < 3.5 * math.sqrt(0.25 / number) + 0.01, (kind, share)


def test_the_text_only_judge_finds_a_leak() -> None:
    sizes = ("large", "large", "small")
    leaking = [(f"a red circle and a {sizes[i % 3]} ring", "a red circle and a small ring") for i in range(600)]
    share, _ = _without_looking(leaking)
    assert share > 0.6
