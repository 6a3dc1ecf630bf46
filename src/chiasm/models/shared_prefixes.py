"""Which samples begin alike, so that what they share is read once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from chiasm.data.sample import Sample
from chiasm.errors import DataError

Tokens = tuple[list[int], list[bool]]  # of a sample: its ids, and which of them are targets


def shared_prefixes(
    samples: Sequence[Sample], rows: Sequence[Tokens], unshareable: Collection[int]
) -> dict[int, list[int]]:
    """Samples that show the very same pictures and say the same before their targets, by the first of each group.

    A sample is a group of its own where words stand between its targets, where nothing stands before them, or where
    they hold tokens that may not be parted from what stands before (parting), such as slots of pictures. The last
    target may be one: nothing is read behind it.
    """
    first: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    groups: dict[int, list[int]] = {}
    for at, (sample, (ids, targets)) in enumerate(zip(samples, rows, strict=True)):
        start, count = targets.index(True), sum(targets)
        answer = ids[start : start + count]
        whole = start > 0 and all(targets[start : start + count]) and not any(one in answer[:-1] for one in unshareable)
        shown = tuple(id(one) for one in sample.shown)
        owner = first.setdefault((shown, tuple(ids[:start])), at) if whole else at
        groups.setdefault(owner, []).append(at)
    return groups


def shared_length(rows: Sequence[Sequence[int]], image_token_ids: Sequence[int]) -> int:
    """How many tokens all rows begin with alike; at least one is left to each. Raises DataError if slots are left."""
    alike = 0
    for tokens in zip(*(row[:-1] for row in rows), strict=False):
        if len(set(tokens)) > 1:
            break
        alike += 1
    if any(image_token in row[alike:] for row in rows for image_token in image_token_ids):
        raise DataError("the chat template parts the pictures from what the questions share; ask them one by one")
    return alike
