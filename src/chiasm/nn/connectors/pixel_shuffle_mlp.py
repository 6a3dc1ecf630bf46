"""Squares of neighbouring features become one image token, then two linear maps (InternVL 1.5, Chen et al. 2024,
arXiv:2404.16821, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from chiasm.errors import RecipeError
from chiasm.nn.attention import Activation, activation
from chiasm.nn.connector import ConnectorConfig
from chiasm.nn.connectors.pixel_shuffle_linear import squares


@dataclass(frozen=True)
class Config(ConnectorConfig):
    """side: of a square, in features. act: the activation. A picture has a square grid of features."""

    side: int = 2
    act: Activation = "gelu"

    def __post_init__(self) -> None:
        if self.side < 1:
            raise RecipeError(f"the side of a square of features must be 1 or more, not {self.side}")

    def build(self, features: int, width: int) -> nn.Module:
        return Connector(features, width, self)

    def image_tokens(self, patches: int) -> int:
        return patches // self.side**2


class Connector(nn.Module):
    """down(act(up(norm x))) of each square's features one after another."""

    def __init__(self, features: int, width: int, config: Config) -> None:
        super().__init__()
        self.side, values = config.side, features * config.side**2
        self.norm, self.up = nn.LayerNorm(values), nn.Linear(values, width)
        self.act, self.down = activation(config.act), nn.Linear(width, width)

    def forward(self, x_NPD: Tensor) -> Tensor:
        return self.down(self.act(self.up(self.norm(squares(x_NPD, self.side)))))
