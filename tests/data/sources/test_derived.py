"""Sources that make a sample out of each of another's: their order in training is the other's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest

from chiasm.data.order import Blocks
from chiasm.data.sample import Question, Sample
from chiasm.data.source import Source
from chiasm.data.sources.answered import Answered
from chiasm.data.sources.grounded import Grounded
from chiasm.data.sources.mixture import Mixture
from chiasm.data.sources.part import Subset
from chiasm.data.sources.prompts import Prompts
from chiasm.data.sources.referring import Referring
from tests.evaluation.fakes import Listed, picture


class FSDP(Listed):
    """Three shards, read one at a time."""

    def blocks(self) -> Blocks:
        return Blocks((8, 16, 8), 1)


def sharded(name: str) -> FSDP:
    asked = (Question("what?", "that", "kind"),)
    return FSDP(tuple(Sample(f"{name}{at}", (picture(at),), questions=asked) for at in range(32)))


ONE_TO_ONE = [Answered, Grounded, Prompts, Referring]


@pytest.mark.parametrize("kind", ONE_TO_ONE)
def test_they_come_in_the_order_of_what_they_are_made_of(kind: Callable[[Source], Source]) -> None:
    mixture = Mixture({"few": sharded("few"), "many": sharded("many")}, {"few": 3, "many": 1})
    for source in (mixture, sharded("a")):
        made = kind(source)
        assert [made.at(place, 7) for place in range(80)] == [source.at(place, 7) for place in range(80)]
        assert made.blocks() == source.blocks()
        assert [made.called(at) for at in range(len(made))] == [source.called(at) for at in range(len(source))]


def test_a_mixture_keeps_its_shares() -> None:
    mixture = Mixture({"few": sharded("few"), "many": sharded("many")}, {"few": 3, "many": 1})
    made = Answered(mixture)
    assert Counter(made[made.at(place, 0)].key[:3] for place in range(64)) == {"few": 48, "man": 16}


def test_rounds_are_shuffled_among_each_other() -> None:
    made = Answered(sharded("a"), rounds=2)
    assert made.blocks() is None
    order = [made.at(place, 3) for place in range(128)]
    for epoch in (order[:64], order[64:]):
        assert sorted(epoch) == list(range(64))
        assert 16 < sum(at < 32 for at in epoch[:48]) < 32  # 24 of the first round are expected, with a deviation of 2
    assert order[:64] != order[64:]
    assert made.called(40) == "sample 8 of the source"


def test_a_part_is_read_shard_by_shard() -> None:
    whole = sharded("a")
    part, rest = Subset(whole, 0.7), Subset(whole, 0.7, rest=True)
    starts = (0, 8, 24, 32)
    for one in (part, rest):
        told = one.blocks()
        assert told is not None
        expected = [sum(first <= at < last for at in one.indices) for first, last in pairwise(starts)]
        assert (list(told.counts), told.together) == (expected, 1)
        assert min(expected) > 0
        order = [one.indices[one.at(place, 5)] for place in range(len(one))]
        shards = [sum(at >= start for start in starts) for at in order]
        assert sum(a != b for a, b in pairwise(shards)) == 2, "each shard is read once"
        assert sorted(order) == list(one.indices)
    assert Subset(Listed(whole.samples), 0.5).blocks() is None
