"""A rendered chat in pieces: what is learned, what is read, and the slots of pictures, told by their number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["read", "learned", "picture", "padding"]


@dataclass(frozen=True)
class Piece:
    """A run of a text that is of one kind. A picture's slots are one piece: "<image> x 576"."""

    text: str
    kind: Kind


def collapsed(text: str, spans: Sequence[tuple[int, int]], slot: str) -> list[Piece]:
    """The text in pieces. slot: the token that keeps the place of one feature, "" where there are no pictures."""
    pieces: list[Piece] = []
    at = 0
    for first, behind in spans:
        pieces += [*_around_slots(text[at:first], slot), Piece(text[first:behind], "learned")]
        at = behind
    return [piece for piece in [*pieces, *_around_slots(text[at:], slot)] if piece.text]


def _around_slots(text: str, slot: str) -> list[Piece]:
    if not slot:
        return [Piece(text, "read")]
    pieces = []
    for run in re.split(f"((?:{re.escape(slot)})+)", text):
        count = run.count(slot)
        pieces.append(Piece(f"{slot} x {count}", "picture") if run.startswith(slot) else Piece(run, "read"))
    return pieces
