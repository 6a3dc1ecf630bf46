from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.config import dump, parse
from chiasm.data.image import Image
from chiasm.data.reader import Reader
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.data.sources.mixture import Mixture
from chiasm.errors import DataError, RecipeError
from tests.worlds import Patches, tiny_processor


def drawn(source: Mixture, count: int, seed: int = 0, start: int = 0) -> list[tuple[int, int]]:
    """(source, index in it) at each position, found through the index alone."""
    return [source._find(source.at(position, seed)) for position in range(start, start + count)]


@given(
    st.lists(st.tuples(st.integers(1, 20), st.sampled_from((0.5, 1, 1.5, 2, 7))), min_size=1, max_size=5),
    st.integers(0, 2**32),
)
def test_counts_follow_the_weights_and_no_sample_repeats_in_an_epoch(parts: list[tuple[int, float]], seed: int) -> None:
    mixture = Mixture(tuple(Patches(size) for size, _ in parts), tuple(weight for _, weight in parts))
    total = sum(weight for _, weight in parts)
    found = drawn(mixture, 300, seed)
    for count in (1, 17, 300):
        seen = Counter(number for number, _ in found[:count])
        for number, (_, weight) in enumerate(parts):
            share = weight / total
            assert abs(seen[number] - count * share) <= 0.5 + share * len(parts) / 2 + 1e-9
    for number, (size, _) in enumerate(parts):
        own = [index for one, index in found if one == number]
        for first in range(0, len(own) - size + 1, size):
            assert sorted(own[first : first + size]) == list(range(size))  # all of it once before any again


def test_twice_the_share_is_passed_through_twice_as_often_in_new_orders() -> None:
    mixture = Mixture((Patches(10), Patches(10)), (2, 1))
    first = [index for number, index in drawn(mixture, 60) if number == 0]
    epochs = [tuple(first[start : start + 10]) for start in range(0, 40, 10)]
    assert len(set(epochs)) == 4
    assert Counter(first) == dict.fromkeys(range(10), 4)
    assert drawn(mixture, 30, seed=1) != drawn(mixture, 30)


@pytest.mark.parametrize(
    ("changes", "shares"),
    [
        ({}, (0.9, 0.09, 0.01)),
        ({"temperature": 1}, (0.9, 0.09, 0.01)),
        ({"temperature": float("inf")}, (1 / 3, 1 / 3, 1 / 3)),
        ({"weights": (3, 2, 1)}, (1 / 2, 1 / 3, 1 / 6)),
        ({"weights": (1, 1, 2), "temperature": 1}, (0.9 / 1.01, 0.09 / 1.01, 0.02 / 1.01)),
        # mT5's alpha = 0.3 (arXiv:2010.11934): 900^0.3, 90^0.3, 10^0.3 over their sum.
        ({"temperature": 1 / 0.3}, (7.6961 / 13.5486, 3.8572 / 13.5486, 1.9953 / 13.5486)),
    ],
)
def test_shares(changes: dict[str, Any], shares: tuple[float, ...]) -> None:
    mixture = Mixture((Patches(900), Patches(90), Patches(10)), **changes)
    assert [quota / sum(mixture.quotas) for quota in mixture.quotas] == pytest.approx(shares, abs=2e-5)


def test_a_mixture_in_a_mixture_keeps_all_promises() -> None:
    inner = Mixture({"x": Patches(4), "y": Patches(6)}, {"x": 1, "y": 1})
    outer = Mixture({"in": inner, "alone": Patches(5)}, {"in": 4, "alone": 1})
    found = [outer[outer.at(position, 3)] for position in range(50)]
    assert Counter(sample.key.rpartition("/")[0] for sample in found) == {
        "in/x/patches": 20,
        "in/y/patches": 20,
        "alone/patches": 10,
    }
    assert set(Counter(sample.key for sample in found if "/x/" in sample.key).values()) == {5}
    assert found[0].meta["source"] in ("in", "alone")


def test_by_index_every_sample_stands_once() -> None:
    mixture = Mixture({"a": Patches(3), "b": Patches(2)}, {"a": 1, "b": 50})
    assert [one.key for one in mixture] == [f"a/patches/{i}" for i in range(3)] + [f"b/patches/{i}" for i in range(2)]
    assert mixture[-1].key == "b/patches/1"
    with pytest.raises(IndexError):
        mixture[5]


@dataclass(frozen=True)
class Big(Patches):
    """As many samples as one says, made when they are asked for."""

    def __getitem__(self, index: int) -> Sample:
        return Sample(str(index), (Image(b""),))


def test_shares_of_large_sources_are_exact_to_a_millionth() -> None:
    sizes = (12_345_678, 999_983, 77)
    mixture = Mixture(tuple(Big(size) for size in sizes))
    assert sum(mixture.quotas) == 1 << 20
    for size, quota in zip(sizes, mixture.quotas, strict=True):
        assert abs(quota / (1 << 20) - size / sum(sizes)) < 1e-6
    with pytest.raises(RecipeError, match="the share of '1' is below a millionth"):
        Mixture((Big(10**9), Big(7))).at(0, 0)


def test_a_reader_of_a_mixture_resumes_exactly_and_names_the_source_of_a_skipped_sample() -> None:
    mixture = Mixture({"whole": Patches(20), "broken": Patches(9, broken=(4,))}, {"whole": 3, "broken": 1})

    def reader(**changes: Any) -> Reader:
        return Reader(mixture, tiny_processor(), **{"batch_size": 8, "seed": 2, "max_skipped": 0.5, **changes})

    whole = [batch.keys for batch in islice(reader(), 20)]
    for stop, threads in ((3, 1), (9, 3)):
        first = reader(threads=threads)
        began = [batch.keys for batch in islice(first, stop)]
        went_on = [batch.keys for batch in islice(reader(position=first.position, threads=4 - threads), 20 - stop)]
        assert began + went_on == whole
    counted = reader()
    list(islice(counted, 20))
    assert {skipped.key for skipped in counted.skips.samples} == {"broken: sample 4 of the source"}


def test_recipes_say_it_by_name_or_as_a_list() -> None:
    scenes = {"source": "scenes", "count": 8}
    named = {"source": "mixture", "sources": {"a": scenes, "b": {**scenes, "seed": 1}}, "weights": {"b": 3, "a": 1}}
    listed = {
        "source": "mixture",
        "sources": [scenes, {**scenes, "seed": 1}],
        "weights": [1, 3],
        "temperature": float("inf"),
    }
    for entries in (named, listed):
        source = parse(Source, entries)  # type: ignore[type-abstract]  # a choice of the room is built
        assert isinstance(source, Mixture)
        assert source.quotas == [1, 3]
        assert parse(Source, dump(source)) == source  # type: ignore[type-abstract]  # likewise


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sources": ()}, "at least one source"),
        ({"weights": (1, 1)}, "both named, or both listed"),
        ({"weights": {"a": 1}}, "2 sources need as many weights, not 1"),
        ({"weights": {"a": 1, "c": 1}}, "no source 'c'"),
        ({"weights": {"a": 1, "b": 0}}, "weight of 'b' must be above 0"),
        ({"temperature": 0}, "temperature must be above 0"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        Mixture(**{"sources": {"a": Patches(3), "b": Patches(2)}, **changes})


def test_an_unknown_key_inside_of_a_mixture_is_told_in_one_sentence() -> None:
    entries = {"source": "mixture", "sources": {"a": {"source": "scenes", "cuont": 3}}}
    with pytest.raises(RecipeError, match=r"^sources\.a\.cuont: there is no such key; did you mean 'count'\?$"):
        parse(Source, entries)  # type: ignore[type-abstract]  # a choice of the room is built


def test_an_empty_source_is_named() -> None:
    with pytest.raises(DataError, match="the source 'b' of the mixture is empty"):
        len(Mixture({"a": Patches(3), "b": Patches(0)}))
