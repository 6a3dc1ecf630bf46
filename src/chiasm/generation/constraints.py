"""Constrained decoding: which tokens may come next.

Shapes: R rows, V vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

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
    for place, (row, new) in enumerate(zip(rows, tokens, strict=True)):
        mask_V = allowed(row, new)
        if mask_V is None:
            continue
        if not mask_V.any():
            raise DataError(
                f"constrained decoding: no token may follow {list(new)[-8:]}, with which the answer goes on"
            )
        masks_RV[place] = mask_V.to(scores_RV.device)
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
