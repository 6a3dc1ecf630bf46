"""Two linear maps with an activation between, feature by feature: LLaVA-1.5 (Liu et al. 2023, arXiv:2310.03744)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from chiasm.nn.attention import Activation, activation
from chiasm.nn.connector import ConnectorConfig


@dataclass(frozen=True)
class Config(ConnectorConfig):
    """act: the activation. bias: of both maps."""

    act: Activation = "gelu"
    bias: bool = True

    def build(self, features: int, width: int) -> nn.Module:
        return Connector(features, width, self)

    def image_tokens(self, patches: int) -> int:
        return patches


class Connector(nn.Module):
    """down(act(up x)), both of the language model's width."""

    def __init__(self, features: int, width: int, config: Config) -> None:
        super().__init__()
        self.up, self.act = nn.Linear(features, width, config.bias), activation(config.act)
        self.down = nn.Linear(width, width, config.bias)

    def forward(self, x_NPD: Tensor) -> Tensor:
        return self.down(self.act(self.up(x_NPD)))
