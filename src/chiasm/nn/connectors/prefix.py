"""The averaged features of a picture, mapped at once to a few image tokens: Frozen (Tsimpoukelli et al. 2021,
arXiv:2106.13884, section 3.1), where they are two.

Shapes: N pictures, P features, K image tokens, D width of the language model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from chiasm.errors import RecipeError
from chiasm.nn.connector import ConnectorConfig


@dataclass(frozen=True)
class Config(ConnectorConfig):
    """tokens: K, of an image. bias: whether the map has one. dropout: of the averaged features, in training."""

    tokens: int = 2
    bias: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise RecipeError(f"a picture needs at least one image token, not {self.tokens}")
        if not 0 <= self.dropout < 1:
            raise RecipeError(f"dropout is a share of the features, from 0 to below 1, not {self.dropout:g}")

    def build(self, features: int, width: int) -> nn.Module:
        return Connector(features, width, self)

    def image_tokens(self, patches: int) -> int:  # noqa: ARG002  # as many for any picture
        return self.tokens


class Connector(nn.Module):
    """(N, P, features) to (N, K, D): one linear map to K * D numbers, cut into K vectors."""

    def __init__(self, features: int, width: int, config: Config) -> None:
        super().__init__()
        self.tokens, self.dropout = config.tokens, nn.Dropout(config.dropout)
        self.map = nn.Linear(features, config.tokens * width, config.bias)

    def forward(self, x_NPD: Tensor) -> Tensor:
        return self.map(self.dropout(x_NPD.mean(1))).unflatten(1, (self.tokens, -1))
