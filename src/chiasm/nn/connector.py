"""What leads features of pictures into a language model: one small map a file in `nn/connectors/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from chiasm.config import Component


class ConnectorConfig(Component, ABC, package="chiasm.nn.connectors", key="connector"):
    """A recipe's choice of a connector."""

    renamed: ClassVar[Mapping[str, str]] = {"hidden": "mlp_width", "groups": "kv_heads"}

    @abstractmethod
    def build(self, features: int, width: int) -> nn.Module:
        """A module from picture features, (N, P, features), to image tokens, (N, K, width)."""

    @abstractmethod
    def image_tokens(self, patches: int) -> int:
        """K, how many image tokens a picture of so many features takes."""
