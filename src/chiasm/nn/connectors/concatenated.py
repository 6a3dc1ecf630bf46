"""Neighbouring features of a row, one after the other, through one linear map: MiniGPT-v2 (arXiv:2310.09478)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from chiasm.errors import RecipeError
from chiasm.nn.connector import ConnectorConfig


@dataclass(frozen=True)
class Config(ConnectorConfig):
    """together: how many features make one image token."""

    together: int = 4

    def __post_init__(self) -> None:
        if self.together < 1:
            raise RecipeError(f"an image token needs at least one feature, not {self.together}")

    def build(self, features: int, width: int) -> nn.Module:
        return Connector(features, width, self)

    def image_tokens(self, patches: int) -> int:
        if patches % self.together:
            raise RecipeError(f"{patches} features cannot be put together by {self.together}")
        return patches // self.together


class Connector(nn.Module):
    """(N, P, features) to (N, P / together, width)."""

    def __init__(self, features: int, width: int, config: Config) -> None:
        super().__init__()
        self.together = config.together
        self.map = nn.Linear(config.together * features, width)

    def forward(self, x_NPF: Tensor) -> Tensor:
        return self.map(x_NPF.reshape(len(x_NPF), x_NPF.shape[1] // self.together, -1))
