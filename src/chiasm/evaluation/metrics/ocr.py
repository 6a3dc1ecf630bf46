"""Answers that are read off a picture: ANLS, relaxed accuracy and exact match. The best of several answers counts."""

from __future__ import annotations

import math
from collections.abc import Sequence

THRESHOLD, TOLERANCE = 0.5, 0.05


def anls(reply: str, answers: Sequence[str], threshold: float = THRESHOLD) -> float:
    """Average normalised Levenshtein similarity (Biten et al. 2019, arXiv:1905.13648) of one reply, 0 to 1.

    1 minus edits over the length of the longer text; 0 where the edits are that share or more. Case and the width of
    spaces do not count, as on the servers of ST-VQA and DocVQA.
    """
    return max(_similarity(_plain(reply), _plain(answer), threshold) for answer in answers)


def relaxed_accuracy(reply: str, answers: Sequence[str], tolerance: float = TOLERANCE) -> float:
    """1 or 0: a number within 5% of the right one, or any other answer in the same words (ChartQA, Masry et al. 2022,
    arXiv:2203.10244). "5%" is 0.05. Where 0 is right, only "0" as it is written is."""
    return float(any(_near(reply.strip(), answer.strip(), tolerance) for answer in answers))


def as_number(text: str) -> float | None:
    """The number that relaxed accuracy takes a text for, "5%" for 0.05; None where it is none."""
    try:
        found = float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def exact_match(reply: str, answers: Sequence[str]) -> float:
    """1 or 0: an answer word for word, but for case and the width of spaces."""
    return float(_plain(reply) in {_plain(answer) for answer in answers})


def edits(first: str, second: str) -> int:
    """The Levenshtein distance: fewest insertions, deletions and replacements of single characters.

    By rows of bits (Hyyrö 2003, "A bit-vector algorithm for computing Levenshtein and Damerau edit distances"): `up`
    and `down` say where a column of the table of distances rises or falls by one.
    """
    positions: dict[str, int] = {}
    for at, letter in enumerate(first):
        positions[letter] = positions.get(letter, 0) | 1 << at
    full, last, distance = (1 << len(first)) - 1, 1 << len(first) >> 1, len(first)
    up, down = full, 0
    for letter in second:
        same = positions.get(letter, 0)
        level = (((same & up) + up) ^ up) | same | down
        right_up, right_down = down | ~(level | up) & full, up & level
        distance += bool(right_up & last) - bool(right_down & last) if first else 1
        right_up, right_down = (right_up << 1 | 1) & full, right_down << 1 & full
        up, down = right_down | ~(level | right_up) & full, right_up & level
    return distance


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _similarity(first: str, second: str, threshold: float) -> float:
    share = edits(first, second) / max(len(first), len(second), 1)
    return 1 - share if share < threshold else 0.0


def _near(reply: str, answer: str, tolerance: float) -> bool:
    given, right = as_number(reply), as_number(answer)
    if given is not None and right:
        return abs(given - right) / abs(right) <= tolerance
    return reply.lower() == answer.lower()
