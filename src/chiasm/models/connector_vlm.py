"""What models of three parts share: an image tower, a connector, and a decoder in whose stream pictures stand."""

from __future__ import annotations

from typing import Any

from torch import nn

from chiasm.data.chat_processor import ChatProcessor
from chiasm.models.generative import VisionLanguageModel
from chiasm.models.model import ModelConfig
from chiasm.nn.tower import ImageTower


class ConnectorVLM(VisionLanguageModel):
    """`vision` sees, and `connector` leads what it makes into the stream of `language`, as the config's fields say."""

    vision: ImageTower
    connector: nn.Module

    def __init__(self, config: ModelConfig, processor: ChatProcessor) -> None:
        super().__init__(config, processor)
        parts: Any = config  # of a family, with fields of its own types under these three names
        self.vision, self.language = parts.vision.build(), parts.language.build()
        self.connector = parts.connector.build(self.vision.width, self.language.width)
