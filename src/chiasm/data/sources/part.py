"""A share of another source, drawn by a seed; and the rest of it: training and validation data out of one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

from chiasm.data.order import Blocks, Shuffle
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.errors import DataError, RecipeError


@dataclass(frozen=True)
class Subset(Source):
    """A random `share` of the samples of a source, in their order; with `rest: true` all the others.

    of: the source. share: above 0 and below 1; rounded to whole samples.
    Which samples they are follows from the seed and from how many samples the source has, and from nothing else: the
    part and its rest never meet, and together are the whole. Where a source of another length takes its place, all is
    drawn anew. In training they have an order of their own: put a mixture around parts, or its shares are lost.
    """

    of: Source
    share: float
    rest: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise RecipeError(f"part.share must lie between 0 and 1, not at {self.share:g}; leave the part out for all")

    @cached_property
    def indices(self) -> Sequence[int]:
        """The samples' indices in the whole source."""
        count = len(self.of)
        kept = round(self.share * count)
        if not 0 < kept < count:
            raise DataError(f"a share of {self.share:g} of {count} samples leaves one part empty; change part.share")
        order = list(Shuffle(count, self.seed, epoch=0))
        return sorted(order[kept:] if self.rest else order[:kept])

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.of[self.indices[index]]

    def blocks(self) -> Blocks | None:
        """The blocks of the whole source, with what is left of each."""
        whole = self.of.blocks()
        if whole is None:
            return None
        cuts = [bisect_left(self.indices, start) for start in accumulate(whole.counts, initial=0)]
        return Blocks(tuple(last - first for first, last in pairwise(cuts)), whole.together)

    def called(self, index: int) -> str:
        return self.of.called(self.indices[index])
