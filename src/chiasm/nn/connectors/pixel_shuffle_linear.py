"""Squares of neighbouring patches as one vector, then a linear map: Idefics3 (arXiv:2408.12637, section 3.1), SmolVLM
(arXiv:2504.05299)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from chiasm.errors import DataError, RecipeError
from chiasm.nn.connector import ConnectorConfig


@dataclass(frozen=True)
class Config(ConnectorConfig):
    """factor: the side of a square, in patches. bias: of the map."""

    factor: int = 2
    bias: bool = False

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise RecipeError(f"factor is a number of patches, 1 or more, not {self.factor}")

    def build(self, features: int, width: int) -> nn.Module:
        return Connector(features, width, self)

    def image_tokens(self, patches: int) -> int:
        side = math.isqrt(patches)
        if side**2 != patches or side % self.factor:
            raise RecipeError(
                f"{patches} patches cannot be taken in squares of {self.factor} by {self.factor}; their grid must be "
                "square, and its side a multiple of the factor"
            )
        return patches // self.factor**2


class Connector(nn.Module):
    """(N, P, features) to (N, P / factor^2, width)."""

    def __init__(self, features: int, width: int, config: Config) -> None:
        super().__init__()
        self.factor = config.factor
        self.map = nn.Linear(features * config.factor**2, width, config.bias)

    def forward(self, x_NPD: Tensor) -> Tensor:
        return self.map(squares(x_NPD, self.factor))


def squares(x_NPD: Tensor, factor: int) -> Tensor:
    """Patches of a square grid, (N, P, D), as squares of them, row by row inside and out, (N, P / f^2, f^2 D)."""
    count, patches, width = x_NPD.shape
    side = math.isqrt(patches)
    if side**2 != patches or side % factor:
        raise DataError(f"{patches} patches are no square grid with a side that is a multiple of {factor}")
    few = side // factor
    cut = x_NPD.view(count, few, factor, few, factor, width).transpose(2, 3)
    return cut.reshape(count, few**2, factor**2 * width)
