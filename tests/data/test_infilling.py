"""Spans that are moved to the end of a stream: the form that CM3 published, and what is drawn."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.data.infilling import Infilling, moved, segments_of
from chiasm.errors import DataError, RecipeError


def test_a_moved_stream_has_the_form_of_cm3() -> None:
    """By hand, from the equations of metaseq's cm3_dataset.py (`sentinel_masking`, `sentinel_targets`)."""
    m0, m1, end = -1, -2, -11
    assert moved([(2, 4), (6, 9)], 10) == [0, 1, m0, 4, 5, m1, 9, m0, 2, 3, end, m1, 6, 7, 8, end]
    assert moved([(0, 10)], 10) == [m0, m0, *range(10), end]
    assert moved([], 3) == [0, 1, 2]


@given(st.integers(0, 10_000), st.integers(2, 40), st.floats(0, 5), st.integers(0, 20))
def test_spans_are_disjoint_and_stay_in_their_segments(seed: int, length: int, mean: float, most: int) -> None:
    rng = np.random.default_rng(seed)
    targets = (rng.random(length) < 0.8).tolist()
    ids = rng.integers(0, 5, length).tolist()
    segments = segments_of(ids, targets, [0])
    assert [place for start, end in segments for place in range(start, end)] == [
        place for place in range(length) if targets[place] and ids[place] != 0
    ]
    spans = Infilling(mean=mean).spans(segments, most, rng)
    assert len(spans) <= min(most, 16)
    assert all(start < end and any(low <= start and end <= high for low, high in segments) for start, end in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    order = moved(spans, length)
    assert sorted(place for place in order if place >= 0) == [*range(length)]
    assert len(order) == length + 3 * len(spans)


def test_as_many_spans_are_moved_as_published() -> None:
    """Poisson with mean 1, at least one; the ends of a lone span are uniform, so on average it is a third of all."""
    rng, drawn = np.random.default_rng(0), 4000
    found = [Infilling().spans([(0, 5000)], 16, rng) for _ in range(drawn)]
    counts = Counter(map(len, found))
    expected = math.exp(-1) * 2  # none or one
    assert counts[1] / drawn == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / drawn))
    lone = [(end - start) / 5000 for ((start, end),) in (spans for spans in found if len(spans) == 1)]
    assert np.mean(lone) == pytest.approx(1 / 3, abs=5 * math.sqrt(1 / 18 / len(lone)))
    assert max(counts) > 2


def test_a_prompt_asks_for_its_first_gap() -> None:
    assert Infilling().prompt("a ", " c") == "a <mask:0> c<mask:0>"
    assert Infilling().prompt("a ", " c ", " e") == "a <mask:0> c <mask:1> e<mask:0>"
    with pytest.raises(DataError, match="2 to 17 pieces"):
        Infilling().prompt("a")
    with pytest.raises(RecipeError, match="give at least one mask"):
        Infilling(masks=())
