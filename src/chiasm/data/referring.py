"""Referring expressions: which phrases name exactly one region of their picture."""

from __future__ import annotations

from chiasm.data.sample import Box, Sample


def unambiguous(sample: Sample) -> tuple[Box, ...]:
    """The boxes of the first picture whose phrase names no other region of it, each region's phrases once, in order.

    Phrases are the same whatever their case and blanks. A phrase that repeats for the very same region is no second.
    """
    regions: dict[str, set[tuple[float, ...]]] = {}
    first: dict[str, Box] = {}
    for box in sample.boxes:
        phrase = " ".join(box.phrase.lower().split())
        if box.image == 0 and phrase:
            regions.setdefault(phrase, set()).add(box.corners)
            first.setdefault(phrase, box)
    return tuple(box for phrase, box in first.items() if len(regions[phrase]) == 1)
