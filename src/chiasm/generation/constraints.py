"""Constrained decoding: which tokens may come next.

Shapes: R rows, V vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from chiasm.data.image_codes import CodeIds
from chiasm.errors import DataError


class AllowedTokens(Protocol):
    """Says at each step which tokens a row may go on with."""

    def __call__(self, row: int, tokens: Sequence[int], /) -> Tensor | None:
        """(V,), True for the tokens that may follow the row's new `tokens`; None where all may."""


def constrained(
    scores_RV: Tensor, rows: Iterable[int], tokens: Iterable[Sequence[int]], allowed: AllowedTokens | None
) -> Tensor:
    """The scores with minus infinity for what may not come next.

    rows, tokens: which row of the prompt each row of scores goes on with, and the new tokens that it has already.
    Raises DataError where nothing may follow.
    """
    if allowed is None:
        return scores_RV
    masks_RV = torch.ones_like(scores_RV, dtype=torch.bool)
    for index, (row, new) in enumerate(zip(rows, tokens, strict=True)):
        mask_V = allowed(row, new)
        if mask_V is None:
            continue
        if not mask_V.any():
            raise DataError(
                f"constrained decoding: no token may follow {list(new)[-8:]}, with which the answer goes on"
            )
        masks_RV[index] = mask_V.to(scores_RV.device)
    return scores_RV.masked_fill(~masks_RV, -torch.inf)


class Choices:
    """Answers that are one of several: an `AllowedTokens`. Tokens of each choice must end with one that ends it, or one
    choice could be the start of another. vocabulary: V."""

    def __init__(self, choices: Sequence[Sequence[int]], vocabulary: int) -> None:
        if not choices or not all(choices):
            raise DataError("constrained decoding: there must be at least one choice, and none may be empty")
        # Every start of a choice, with the tokens that go on from there.
        self._next: dict[tuple[int, ...], set[int]] = {}
        for choice in choices:
            for at, token in enumerate(choice):
                self._next.setdefault(tuple(choice[:at]), set()).add(token)
        self._vocabulary = vocabulary

    def __call__(self, _row: int, tokens: Sequence[int]) -> Tensor:
        mask_V = torch.zeros(self._vocabulary, dtype=torch.bool)
        mask_V[sorted(self._next.get(tuple(tokens), ()))] = True
        return mask_V


class Both:
    """What two constraints allow."""

    def __init__(self, first: AllowedTokens, second: AllowedTokens) -> None:
        self._first, self._second = first, second

    def __call__(self, row: int, tokens: Sequence[int]) -> Tensor | None:
        first_V, second_V = self._first(row, tokens), self._second(row, tokens)
        if first_V is None or second_V is None:
            return first_V if second_V is None else second_V
        return first_V & second_V.to(first_V.device)


class ImageGrammar:
    """Answers in which every image is whole: its begin, as many codes as an image has, its end; no codes elsewhere.

    vocabulary: V. room: how many new tokens each row has room for; no image begins that has not enough. None: no image
        begins at all. never: tokens that are only placeholders in prompts.
    """

    def __init__(self, codes: CodeIds, vocabulary: int, room: Sequence[int] | None, never: Sequence[int] = ()) -> None:
        self._codes, self._room = codes, room
        self._code_V, self._end_V, self._word_V = (torch.zeros(vocabulary, dtype=torch.bool) for _ in range(3))
        self._code_V[list(codes.ids)] = True
        self._end_V[codes.end] = True
        self._word_V = ~(self._code_V | self._end_V)
        self._word_V[list(never)] = False
        self._closed_V = self._word_V.clone()
        self._closed_V[codes.begin] = False

    def __call__(self, row: int, tokens: Sequence[int]) -> Tensor:
        inside = next((at for at, token in enumerate(reversed(tokens)) if not self._code_V[token]), len(tokens))
        if inside < len(tokens) and tokens[-1 - inside] == self._codes.begin:
            return self._code_V if inside < self._codes.count else self._end_V
        fits = self._room is not None and self._room[row] - len(tokens) >= self._codes.count + 2
        return self._word_V if fits else self._closed_V
