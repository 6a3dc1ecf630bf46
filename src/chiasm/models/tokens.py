"""Features before pooling: one vector a place of a picture, one a token of a text.

Shapes: N images, B texts, P positions, T tokens, D width of the tower (not of the shared space)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from chiasm.data.batch import Images, PatchImages


@dataclass(frozen=True)
class ImageTokens:
    """The features of an image tower, position by position.

    They are normalised as the tower normalises them for pooling: transformers' `last_hidden_state` of SigLIP, and
    `post_layernorm(last_hidden_state)` of CLIP, which in transformers is not normalised yet.

    tokens_NPD: the features, (N, P, D): first `prefix` that belong to no position (a class token), then the
        positions, row by row. Where pictures have grids of different sizes, what comes after a grid means nothing.
    grid_N2: rows and columns of each picture's positions.
    """

    tokens_NPD: Tensor
    grid_N2: Tensor
    prefix: int

    def __len__(self) -> int:
        return len(self.tokens_NPD)

    def places(self, at: int) -> Tensor:
        """The feature map of one picture, (rows, columns, D)."""
        rows, columns = self.grid_N2[at].tolist()
        return self.tokens_NPD[at, self.prefix : self.prefix + rows * columns].view(rows, columns, -1)


@dataclass(frozen=True)
class TextTokens:
    """What a text tower makes of texts, token by token; transformers' `last_hidden_state`.

    tokens_BTD: the features, (B, T, D). lengths_B: how many of each row are the text's; the rest is padding.
    """

    tokens_BTD: Tensor
    lengths_B: Tensor

    def __len__(self) -> int:
        return len(self.tokens_BTD)


def grids(images: Images, positions: int) -> Tensor:
    """Rows and columns of the positions of each picture, (N, 2): the pictures' own, or a square."""
    if isinstance(images, PatchImages):
        return images.grid_M2
    side = math.isqrt(positions)
    return torch.full((len(images.pixels), 2), side, device=images.row_N.device)
