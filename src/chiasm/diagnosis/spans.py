"""A rendered chat in pieces: what is learned, what is read, and runs of image tokens, shortened to their number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["read", "learned", "picture", "padding"]


@dataclass(frozen=True)
class Piece:
    """A run of text of one kind. An image's tokens are one piece: "<image> x 576"."""

    text: str
    kind: Kind


def collapsed(text: str, spans: Sequence[tuple[int, int]], image_token: str) -> list[Piece]:
    """The text in pieces. spans: (first, end) of what is learned. image_token: stands for one image feature, "" where
    there are no images.
    """
    pieces: list[Piece] = []
    at = 0
    for first, end in spans:
        pieces += [*_around_image_tokens(text[at:first], image_token), Piece(text[first:end], "learned")]
        at = end
    return [piece for piece in [*pieces, *_around_image_tokens(text[at:], image_token)] if piece.text]


def _around_image_tokens(text: str, image_token: str) -> list[Piece]:
    if not image_token:
        return [Piece(text, "read")]
    pieces = []
    for run in re.split(f"((?:{re.escape(image_token)})+)", text):
        count = run.count(image_token)
        pieces.append(
            Piece(f"{image_token} x {count}", "picture") if run.startswith(image_token) else Piece(run, "read")
        )
    return pieces
