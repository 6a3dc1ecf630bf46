"""Batches by a budget of tokens: as many samples as fit, the same whoever reads them, from wherever."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any

import pytest

from chiasm.data.batch import Batch
from chiasm.data.processor import Cost
from chiasm.data.reader import Budget, Reader, _even
from chiasm.errors import DataError
from tests.models.generative_models import small_llava
from tests.training.chats import Chats
from tests.worlds import Patches, tiny_processor

PROCESSOR = small_llava().processor
MIXED = Chats(imaged=lambda at: at % 3 == 0)


def reader(budget: Budget, source: Chats = MIXED, **more: Any) -> Reader:
    return Reader(source, PROCESSOR, budget=budget, seed=3, captions="keep", max_skipped=1.0, **more)


def keys(batches: Iterator[Batch | None], count: int) -> list[tuple[str, ...]]:
    return [batch.keys if batch is not None else () for batch in islice(batches, count)]


def cost(batch: Batch) -> tuple[int, int]:
    assert batch.stream is not None
    return len(batch.stream.ids_T), int(batch.stream.image_mask_T.sum())


def fits(budget: Budget, tokens: int, image_tokens: int) -> bool:
    return tokens <= budget.tokens and (budget.image_tokens is None or image_tokens <= budget.image_tokens)


def test_a_budget_is_spent_to_the_last_token_and_slot() -> None:
    assert Budget(10, 4).holds(Cost(10, 4))
    assert not Budget(10, 4).holds(Cost(11, 4))
    assert not Budget(10, 4).holds(Cost(10, 5))
    assert Budget(10).holds(Cost(10, 10))
    assert Budget(11, 5).share(2) == Budget(5, 2)
    assert Budget(11).share(3) == Budget(3)


@pytest.mark.parametrize("budget", [Budget(300), Budget(300, 40), Budget(120)])
def test_each_batch_is_as_full_as_it_can_be(budget: Budget) -> None:
    """The next sample would not have fitted, and nothing is lost or moved: together they are the source in order."""
    one = reader(budget)
    batches = [batch for batch in islice(one.shares(), 12) if batch is not None]
    plain = Reader(MIXED, PROCESSOR, 1, seed=3, captions="keep")
    flat = [key for batch in batches for key in batch.keys]
    assert flat == [key for (key,) in keys(plain.shares(), len(flat))]
    firsts = [next(iter(Reader(MIXED, PROCESSOR, 1, seed=3, position=at, captions="keep"))) for at in range(len(flat))]
    at, ended = 0, set[str]()
    for batch in batches[:-1]:
        at += len(batch)
        tokens, image_tokens = cost(batch)
        assert fits(budget, tokens, image_tokens)
        more_tokens, more_slots = cost(firsts[at])
        assert not fits(budget, tokens + more_tokens, image_tokens + more_slots)
        ended.add("tokens" if tokens + more_tokens > budget.tokens else "slots")
    assert ended == ({"tokens"} if budget.image_tokens is None else {"tokens", "slots"})
    assert len({len(batch) for batch in batches}) > 1


def test_where_a_batch_ends_follows_from_where_it_begins() -> None:
    """So a reader goes on from any batch, with any number of threads."""
    whole = reader(Budget(250), threads=2)
    found, positions = [], [0]
    for batch in islice(whole.shares(), 8):
        assert batch is not None
        found.append(batch.keys)
        positions.append(whole.position)
    for at in (1, 4, 7):
        assert keys(reader(Budget(250), position=positions[at], threads=3).shares(), 8 - at) == found[at:]


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_have_as_many_batches_and_share_each(ranks: int) -> None:
    alone = keys(reader(Budget(420)).shares(), 10)
    shares = [keys(reader(Budget(420), rank=rank, ranks=ranks).shares(), 10) for rank in range(ranks)]
    assert all(all(share) for share in shares)
    for at in range(10):
        assert sum((share[at] for share in shares), ()) == alone[at]
    loads = []
    for rank in range(ranks):
        batches = islice(reader(Budget(420), rank=rank, ranks=ranks).shares(), 10)
        loads.append(sum(cost(batch)[0] for batch in batches if batch is not None))
    assert max(loads) < 1.35 * min(loads)  # by tokens, not by samples


def test_what_cannot_be_read_or_is_too_long_is_counted_and_named() -> None:
    source = Chats(12, broken=(2,), long=(5,))
    one = reader(Budget(100), source)
    seen = [key for batch in islice(one.shares(), 12) if batch is not None for key in batch.keys]
    assert "chat/2" not in seen
    assert "chat/5" not in seen
    told = {skipped.key: skipped.reason for skipped in one.skips.samples}
    assert "chat 2 is broken" in told.values()
    assert any("a batch of 100 tokens for 1 processes has no room" in reason for reason in told.values())
    assert one.skips.seen == one.position
    with pytest.raises(DataError, match="none of the last"):
        list(islice(reader(Budget(5), source), 1))


def test_a_sample_must_leave_room_for_one_of_each_other_rank() -> None:
    source = Chats(12, imaged=lambda at: at == 3, long=(5,))
    alone = Reader(source, PROCESSOR, 1, seed=3, captions="keep")
    costs = {batch.keys[0]: cost(batch) for batch in islice(alone.shares(), 12) if batch is not None}
    tokens, image_tokens = costs["chat/5"][0], costs["chat/3"][1]
    for budget, key in ((Budget(2 * tokens), "chat/5"), (Budget(2 * tokens, 2 * image_tokens), "chat/3")):
        tight = Budget(2 * tokens - 1) if budget.image_tokens is None else Budget(2 * tokens, 2 * image_tokens - 1)
        for given, ranks, there in ((budget, 2, True), (tight, 2, False), (tight, 1, True)):
            readers = [reader(given, source, rank=rank, ranks=ranks) for rank in range(ranks)]
            seen = {key for one in readers for found in keys(one.shares(), 12) for key in found}
            told = [skipped.reason for one in readers for skipped in one.skips.samples]
            assert (key in seen) == there, (given, ranks)
            assert any(f"'{key}'" in one and f"{given} for 2 processes" in one for one in told) != there
            wanted = "data.batch_tokens" + (" or data.batch_image_tokens" if given.image_tokens is not None else "")
            assert all(one.endswith(f"raise {wanted}") for one in told)


def test_only_models_that_speak_are_packed() -> None:
    with pytest.raises(DataError, match=r"data\.batch_size for this one"):
        Reader(Patches(), tiny_processor(), budget=Budget(100))


@pytest.mark.parametrize(
    ("costs", "ranks", "parts"),
    [
        ([5, 5, 5, 5], 2, [2, 2]),
        ([9, 1, 1, 1], 2, [1, 3]),
        ([1, 1, 1, 9], 2, [3, 1]),
        ([9, 1], 2, [1, 1]),
        ([1, 9, 1], 3, [1, 1, 1]),
        ([0, 9, 0, 1], 2, [2, 2]),
        ([1, 1, 50], 3, [1, 1, 1]),
        ([50, 1, 1], 3, [1, 1, 1]),
    ],
)
def test_shares_are_even_and_none_is_empty(costs: list[int], ranks: int, parts: list[int]) -> None:
    bounds = _even(7, costs, ranks)
    assert bounds[0] == 7
    assert bounds[-1] == 7 + len(costs)
    assert [last - first for first, last in pairwise(bounds)] == parts
