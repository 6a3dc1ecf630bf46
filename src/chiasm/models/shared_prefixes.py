"""Which samples share a prefix, so that it is read once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from chiasm.data.sample import Sample, Text
from chiasm.errors import DataError

Tokens = tuple[list[int], list[bool]]  # of a sample: its ids, and which of them are targets


@dataclass(frozen=True)
class SharedPrefix:
    """Questions with a prefix in common. begun: the prefix, images above all. questions: what each adds to it.

    limits: the most new tokens of each answer.
    """

    begun: Sample
    questions: tuple[tuple[Text, ...], ...]
    limits: tuple[int, ...]

    def __post_init__(self) -> None:
        if not all(isinstance(part, Text) for question in self.questions for part in question):
            raise DataError(
                f"sample '{self.begun.key}': the questions add images; give them in what the questions share"
            )

    @property
    def samples(self) -> list[Sample]:
        """Each question as a sample of its own."""
        return [replace(self.begun, parts=(*self.begun.parts, *question)) for question in self.questions]


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
    for index, (sample, (ids, targets)) in enumerate(zip(samples, rows, strict=True)):
        start, count = targets.index(True), sum(targets)
        answer = ids[start : start + count]
        whole = start > 0 and all(targets[start : start + count]) and not any(id_ in answer[:-1] for id_ in unshareable)
        shown = tuple(id(part) for part in sample.shown)
        owner = first.setdefault((shown, tuple(ids[:start])), index) if whole else index
        groups.setdefault(owner, []).append(index)
    return groups


def common_tokens(rows: Sequence[Sequence[int]], image_token_ids: Sequence[int]) -> int:
    """How many tokens all rows have in common at their start, leaving at least one to each. Raises DataError if image
    tokens are left."""
    alike = 0
    for tokens in zip(*(row[:-1] for row in rows), strict=False):
        if len(set(tokens)) > 1:
            break
        alike += 1
    if any(image_token in row[alike:] for row in rows for image_token in image_token_ids):
        raise DataError("the chat template puts images after what the questions share; ask them one by one")
    return alike
