"""Infilling by moving spans to the end of a stream: the causal masking of CM3 (Aghajanyan et al. 2022,
arXiv:2201.07520, section 3.1; its code: metaseq, data/cm3_dataset.py).

Attention stays causal and positions count on, but what is read before a span is all that stands around it. A stream of
ten tokens of which 2, 3 and 6, 7, 8 are moved (m: masks, e: the end of a span):

    0 1 m0 4 5 m1 9 | m0 2 3 e | m1 6 7 8 e
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chiasm.errors import DataError, RecipeError

Span = tuple[int, int]


@dataclass(frozen=True)
class Infilling:
    """Which spans of a sample are moved to its end, in training; drawn anew for each sample of each epoch.

    masks: the tokens that stand where spans were, as many as spans are moved at most. end: ends a moved span.
    mean: how many spans there are: one of a Poisson distribution with this mean, at least one.
    within: tokens across which no span reaches, such as the one that parts a text from its image (CM3Leon,
        arXiv:2309.02591).
    """

    masks: tuple[str, ...] = tuple(f"<mask:{number}>" for number in range(16))
    end: str = "<end_of_span>"
    mean: float = 1.0
    within: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.masks or self.mean < 0:
            raise RecipeError("processor.infilling: give at least one mask, and a mean that is not negative")

    def prompt(self, *pieces: str) -> str:
        """A text with gaps between its pieces, which asks for what stands in the first gap."""
        if not 2 <= len(pieces) <= len(self.masks) + 1:
            raise DataError(
                f"infilling: a text has 2 to {len(self.masks) + 1} pieces around its gaps, not {len(pieces)}"
            )
        gaps = (*self.masks[: len(pieces) - 1], self.masks[0])
        return "".join(piece + mask for piece, mask in zip((*pieces, ""), (*gaps, ""), strict=False))

    def spans(self, segments: Sequence[Span], most: int, rng: np.random.Generator) -> list[Span]:
        """Spans to move, in order, disjoint and none of them empty; at most `most` of them.

        segments: (start, end) ranges, in one of which each lies. Their ends are uniform over all of these, given that
            they are disjoint: as many pairs of neighbours among sorted points. What reaches beyond is cut.
        """
        wanted = min(max(1, int(rng.poisson(self.mean))), len(self.masks), most)
        if not segments or wanted < 1:
            return []
        points = sorted(rng.integers(segments[0][0], segments[-1][1] + 1, 2 * wanted).tolist())
        found = (_longest_within(low, high, segments) for low, high in zip(points[::2], points[1::2], strict=True))
        return [(start, end) for start, end in found if start < end]


def _longest_within(low: int, high: int, segments: Sequence[Span]) -> Span:
    """The part of a span that lies in the segment which holds most of it."""
    parts = ((max(low, start), min(high, end)) for start, end in segments)
    return max(parts, key=lambda span: span[1] - span[0])


def segments_of(ids: Sequence[int], targets: Sequence[bool], boundaries: Sequence[int]) -> list[Span]:
    """Runs of learned tokens, (start, end), split at boundary tokens."""
    segments: list[Span] = []
    for position, (token, target) in enumerate(zip(ids, targets, strict=True)):
        if not target or token in boundaries:
            continue
        if segments and segments[-1][1] == position:
            segments[-1] = (segments[-1][0], position + 1)
        else:
            segments.append((position, position + 1))
    return segments


def moved(spans: Sequence[Span], length: int) -> list[int]:
    """The order of positions after spans are moved to the end: a position, or -1 - span for the span's mask token, or
    -1 - length for the token that ends a span."""
    order: list[int] = []
    at = 0
    for number, (start, end) in enumerate(spans):
        order += [*range(at, start), -1 - number]
        at = end
    order += range(at, length)
    for number, (start, end) in enumerate(spans):
        order += [-1 - number, *range(start, end), -1 - length]
    return order
