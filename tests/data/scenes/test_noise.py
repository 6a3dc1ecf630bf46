"""Planted noise: as much of each kind as asked for, told in meta, and really noise."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from chiasm.data.sample import Sample
from chiasm.data.scenes.languages import LANGUAGES
from chiasm.data.scenes.noise import Noise
from chiasm.data.scenes.vocabulary import COLOURS, SHAPES
from chiasm.data.sources.scenes import Scenes
from chiasm.errors import RecipeError
from tests.data.scenes.checker import judge

pytestmark = pytest.mark.xdist_group("noise")

NOISE = Noise(mismatched=0.2, duplicates=0.15, boilerplate=0.1, wrong_language=0.1, written=0.15)
COUNT = 1500
CLEAN = Scenes(COUNT, seed=41, size=48)
NOISY = Scenes(COUNT, seed=41, size=48, noise=NOISE)


@pytest.fixture(scope="module")
def noisy() -> list[Sample]:
    return list(NOISY)


def _of(samples: list[Sample], kind: str) -> list[tuple[int, Sample]]:
    return [(i, sample) for i, sample in enumerate(samples) if sample.meta["noise"] == kind]


def _pixels(sample: Sample) -> np.ndarray:
    return np.asarray(sample.image.decode()).astype(int)


def test_shares_are_as_asked_for(noisy: list[Sample]) -> None:
    counts = Counter(sample.meta["noise"] for sample in noisy)
    for kind, share in (NOISE.shares | {"": 1 - sum(NOISE.shares.values())}).items():
        assert abs(counts[kind] - share * COUNT) < 4 * math.sqrt(share * (1 - share) * COUNT), kind


def test_what_is_not_spoiled_is_as_it_would_be_without_noise(noisy: list[Sample]) -> None:
    for i, sample in _of(noisy, ""):
        clean = CLEAN[i]
        assert (sample.key, sample.captions, sample.boxes, sample.meta) == (
            clean.key,
            clean.captions,
            clean.boxes,
            clean.meta,
        )
        assert sample.image.key == clean.image.key


def test_mismatched_captions_are_false_of_the_picture(noisy: list[Sample]) -> None:
    for i, sample in _of(noisy, "mismatched"):
        shown = NOISY._unlike(i)
        assert judge(sample.captions[0].partition(";")[0], shown) is False  # no thing of theirs is in both
        assert judge(sample.captions[0], NOISY.scene(i)) is True
        assert sample.image.key != CLEAN[i].image.key


def test_duplicates_repeat_an_earlier_sample(noisy: list[Sample]) -> None:
    keys = {sample.key: sample for sample in noisy}
    assert len(keys) == COUNT
    exact = 0
    for i, sample in _of(noisy, "duplicates"):
        original = keys[str(sample.meta["duplicate_of"])]
        assert original.meta["noise"] == ""
        assert int(original.key.rpartition("/")[2]) < i
        assert sample.captions == original.captions
        assert (sample.image.key == original.image.key) is sample.meta["exact"]
        assert np.abs(_pixels(sample) - _pixels(original)).max() < 20
        exact += bool(sample.meta["exact"])
    assert 0.3 < exact / len(_of(noisy, "duplicates")) < 0.7


def test_boilerplate_says_nothing_of_the_picture(noisy: list[Sample]) -> None:
    for _, sample in _of(noisy, "boilerplate"):
        assert len(sample.captions) == 1
        assert not set(sample.captions[0].split()) & {*COLOURS, *SHAPES}
        assert all(box.span is None for box in sample.boxes)


def test_another_language_tells_the_same_scene(noisy: list[Sample]) -> None:
    found = set()
    for i, sample in _of(noisy, "wrong_language"):
        (name, language), *others = [
            (n, one) for n, one in LANGUAGES.items() if sample.captions[0].startswith(one.opening)
        ]
        assert not others
        found.add(name)
        things = [thing.look for thing in NOISY.scene(i).things]
        told = sample.captions[0].removeprefix(language.opening)
        assert told.count("(") == len(things)
        assert sum(told.count(language.words[look.shape]) for look in set(things)) >= len({t.shape for t in things})
        assert all(language.words[look.colour] in told for look in things)
    assert found == set(LANGUAGES)


def test_a_caption_is_written_into_the_picture(noisy: list[Sample]) -> None:
    for i, sample in _of(noisy, "written"):
        changed = np.abs(_pixels(sample) - _pixels(CLEAN[i])).max(axis=2) > 40
        assert 0.02 < changed.mean() < 0.5
        assert sample.captions == CLEAN[i].captions


@pytest.mark.parametrize("shares", [{"mismatched": -0.1}, {"mismatched": 0.6, "written": 0.5}])
def test_impossible_shares_are_an_error(shares: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match="noise"):
        Noise(**shares)
