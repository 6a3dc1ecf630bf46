"""One linear map, feature by feature: LLaVA (2304.08485), LiMBeR (2209.15162), MiniGPT-4 (2304.10592)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from chiasm.nn.connector import ConnectorConfig


@dataclass(frozen=True)
class Config(ConnectorConfig):
    """bias: whether the map has one."""

    bias: bool = True

    def build(self, features: int, width: int) -> nn.Module:
        return nn.Linear(features, width, self.bias)

    def image_tokens(self, patches: int) -> int:
        return patches
