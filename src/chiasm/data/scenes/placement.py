"""Where things stand: boxes on the grid that keep apart, but for one pair that is meant to meet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from chiasm.data.scenes.looks import Look
from chiasm.data.scenes.rng import Rng
from chiasm.data.scenes.shapes import HOLE, mask
from chiasm.data.scenes.vocabulary import HOLLOW, SHAPES

GRID = 64  # units along each side of a scene

Corners = tuple[int, int, int, int]
Extent = tuple[int, int]

_GAP = 2  # units between things that keep apart
_EDGE = 1  # units between things and the edge of the picture
_SIDES = {"small": (12, 14), "large": (20, 26)}  # of the square of a box's area: classes that no eye confuses
_CONTAINER = (37, 41)
_LETTER = (10, 12)  # heights
_DIGIT = (14, 18)
_LETTER_WIDTH, _DIGIT_WIDTH = 0.8, 0.62  # relative to the height
_CROWDED = 2300  # square units, above which things placed at random would hardly find room
_ROUNDS, _TRIES = 4, 24
_HIDDEN = (0.1, 0.35)  # share of the lower thing that an overlapping one may hide
_FREE = 0.35  # share of the upper thing that must stand beside the lower one


@dataclass(frozen=True, slots=True)
class Pair:
    """Two things that meet: thing `upper` stands inside of thing `lower`, or partly over it."""

    kind: Literal["inside", "overlapping"]
    upper: int
    lower: int


def extent(rng: Rng, look: Look, contains: bool = False) -> Extent:
    """Width and height of a thing in units."""
    if look.shape == "word":
        height = rng.integer(*_LETTER)
        return round(_LETTER_WIDTH * height * len(look.text)), height
    if look.shape == "digit":
        height = rng.integer(*_DIGIT)
        return round(_DIGIT_WIDTH * height), height
    side = rng.integer(*(_CONTAINER if contains else _SIDES[look.size]))
    root = _ROOTS[look.shape]
    return round(side * root), round(side / root)


_ROOTS = {shape: math.sqrt(aspect) for shape, aspect in SHAPES.items()}


def place(rng: Rng, looks: Sequence[Look], extents: Sequence[Extent], pair: Pair | None) -> list[Corners] | None:
    """The boxes of all things, None where no room was found."""
    units: list[tuple[int, int, list[tuple[int, int, int]]]] = []  # width, height, (thing, dx, dy)
    if pair is not None:
        unit = _meeting(rng, looks, extents, pair)
        if unit is None:
            return None
        units.append(unit)
    meeting = (pair.upper, pair.lower) if pair is not None else ()
    units += [(*extents[i], [(i, 0, 0)]) for i in range(len(looks)) if i not in meeting]
    if sum((width + _GAP) * (height + _GAP) for width, height, _ in units) > _CROWDED:
        return None
    units.sort(key=lambda unit: -unit[0] * unit[1])  # large ones find no room later
    for _ in range(_ROUNDS):
        corners = _place_once(rng, units, extents)
        if corners is not None:
            return [corners[i] for i in range(len(looks))]
    return None


def _place_once(
    rng: Rng, units: Sequence[tuple[int, int, list[tuple[int, int, int]]]], extents: Sequence[Extent]
) -> dict[int, Corners] | None:
    placed: dict[int, Corners] = {}
    for width, height, members in units:
        taken = list(placed.values())
        for _ in range(_TRIES):
            x = rng.integer(_EDGE, GRID - _EDGE - width)
            y = rng.integer(_EDGE, GRID - _EDGE - height)
            boxes = [(x + dx, y + dy, x + dx + extents[i][0], y + dy + extents[i][1]) for i, dx, dy in members]
            if all(_apart(box, other) for box in boxes for other in taken):
                placed.update({member[0]: box for member, box in zip(members, boxes, strict=True)})
                break
        else:
            return None
    return placed


def _apart(first: Corners, other: Corners) -> bool:
    return (
        first[2] + _GAP <= other[0]
        or other[2] + _GAP <= first[0]
        or first[3] + _GAP <= other[1]
        or other[3] + _GAP <= first[1]
    )


def _meeting(
    rng: Rng, looks: Sequence[Look], extents: Sequence[Extent], pair: Pair
) -> tuple[int, int, list[tuple[int, int, int]]] | None:
    """The two things of a pair side by side in one box, the lower one at (0, 0) before the box is moved there."""
    upper, lower = extents[pair.upper], extents[pair.lower]
    if pair.kind == "inside":
        shift = _inside(rng, looks[pair.lower].shape, upper, lower)
    else:
        shift = _overlapping(rng, looks[pair.upper].shape, looks[pair.lower].shape, upper, lower)
    if shift is None:
        return None
    left, top = min(0, shift[0]), min(0, shift[1])
    width = max(lower[0], shift[0] + upper[0]) - left
    height = max(lower[1], shift[1] + upper[1]) - top
    if max(width, height) > GRID - 2 * _EDGE:
        return None
    return width, height, [(pair.lower, -left, -top), (pair.upper, shift[0] - left, shift[1] - top)]


def _inside(rng: Rng, container: str, inner: Extent, outer: Extent) -> tuple[int, int] | None:
    """Where the inner box may stand in the outer one: all of it in the hole, or well within a full shape."""
    room = (HOLE if container in HOLLOW else 0.8) * outer[0] / 2 - 1
    if container in ("ring", "circle"):
        slack = (room - math.hypot(inner[0], inner[1]) / 2) / math.sqrt(2)
        slack_x = slack_y = slack
    else:
        slack_x, slack_y = room - inner[0] / 2, room - inner[1] / 2
    if min(slack_x, slack_y) < 0:
        return None
    x = (outer[0] - inner[0]) / 2 + (2 * rng.uniform() - 1) * slack_x
    y = (outer[1] - inner[1]) / 2 + (2 * rng.uniform() - 1) * slack_y
    return round(x), round(y)


def _overlapping(rng: Rng, over: str, under: str, upper: Extent, lower: Extent) -> tuple[int, int] | None:
    for _ in range(12):
        x = rng.integer(1 - upper[0], lower[0] - 1)
        y = rng.integer(1 - upper[1], lower[1] - 1)
        common, upper_area, lower_area = _common(over, under, upper, lower, x, y)
        if _HIDDEN[0] * lower_area <= common <= _HIDDEN[1] * lower_area and common <= (1 - _FREE) * upper_area:
            return x, y
    return None


def _common(over: str, under: str, upper: Extent, lower: Extent, x: int, y: int) -> tuple[int, int, int]:
    """How many units two shapes share, and how many each covers; the upper one's box is shifted by (x, y)."""
    first, other = coverage(over, *upper), coverage(under, *lower)
    x0, x1 = max(0, x), min(lower[0], x + upper[0])
    y0, y1 = max(0, y), min(lower[1], y + upper[1])
    both = first[y0 - y : y1 - y, x0 - x : x1 - x] & other[y0:y1, x0:x1]
    return int(np.count_nonzero(both)), int(np.count_nonzero(first)), int(np.count_nonzero(other))


@lru_cache(maxsize=2048)
def coverage(shape: str, width: int, height: int) -> NDArray[np.bool_]:
    """Which units of its box a shape covers, (height, width)."""
    return np.asarray(mask(shape, width, height)) > 127
