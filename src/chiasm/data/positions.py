"""Positions of tokens on three axes: time, height, width (M-RoPE, Wang et al. 2024, arXiv:2409.12191, section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def three_axes(image_mask_T: Tensor, spans: Sequence[tuple[int, int, int]]) -> Tensor:
    """(3, T) positions of one sample's tokens.

    image_mask_T: which tokens are image tokens. spans: (times, rows, columns) of each picture's image tokens, in order.
    A word stands at one number on all axes. An image begins at the next number, to which each of its tokens adds its
    time, row and column. What follows goes on after the largest number so far. Two words, a picture of two rows and
    three columns, and a word:

        time    0 1  2 2 2 2 2 2  5
        height  0 1  2 2 2 3 3 3  5
        width   0 1  2 3 4 2 3 4  5

    Raises ValueError where the image tokens are not those of the spans.
    """
    image_tokens = image_mask_T.nonzero()[:, 0].tolist()
    if len(image_tokens) != sum(times * rows * columns for times, rows, columns in spans):
        raise ValueError(
            f"{len(image_tokens)} image tokens are not those of pictures with {list(spans)} times, rows and columns"
        )
    parts: list[Tensor] = []
    at = used = begins = 0  # in the stream, among the image tokens, on the axes
    for span in spans:
        first = image_tokens[used]
        parts.append(_words(begins, first - at))
        begins += first - at
        parts.append(torch.cartesian_prod(*map(torch.arange, span)).T + begins)
        begins += max(span)
        used += parts[-1].shape[1]
        at = first + parts[-1].shape[1]
    parts.append(_words(begins, len(image_mask_T) - at))
    return torch.cat(parts, dim=1)


def _words(begins: int, count: int) -> Tensor:
    return torch.arange(begins, begins + count).expand(3, -1)
