"""Which samples share a prefix, so that it is read once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from chiasm.data.sample import Sample
from chiasm.errors import DataError

Tokens = tuple[list[int], list[bool]]  # of a sample: its ids, and which of them are targets


def shared_prefixes(
    samples: Sequence[Sample], rows: Sequence[Tokens], unshareable: Collection[int]
) -> dict[int, list[int]]:
    """Samples that have the very same images and texts before their targets, by the first of each group.

    A sample is a group of its own where words stand between its targets, where nothing stands before them, or where
    they hold tokens that may not be read apart from what stands before (unshareable), such as image tokens. The last
    target may be one: nothing is read after it.
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
    """How many tokens all rows have in common at their start, leaving at least one to each.

    Raises DataError if image tokens are left.
    """
    alike = 0
    for tokens in zip(*(row[:-1] for row in rows), strict=False):
        if len(set(tokens)) > 1:
            break
        alike += 1
    if any(image_token in row[alike:] for row in rows for image_token in image_token_ids):
        raise DataError("the chat template parts the pictures from what the questions share; ask them one by one")
    return alike
