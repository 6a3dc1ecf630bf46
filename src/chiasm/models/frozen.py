"""Frozen (Tsimpoukelli et al. 2021, arXiv:2106.13884): an image tower that learns to prompt a language model.

The language model never changes, but gradients run through it into the tower, whose pooled features are mapped to two
image tokens. Images may stand anywhere in a text, so a prompt may show several with their answers before it asks about
one.

Differs from the paper: the tower may be any, in the published size CLIP's ResNet-50 for an NF-ResNet-50; the language
model, which was not published, is a Llama of its depth and width."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from chiasm.data.batch import ImageFeatures, Images
from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.layouts.fixed import Fixed
from chiasm.models import clip, llava
from chiasm.models.generative_features import CachesImageFeatures
from chiasm.models.model import Model, ModelConfig
from chiasm.models.needed_layout import NeededLayout
from chiasm.nn.connector import ConnectorConfig
from chiasm.nn.connectors import prefix
from chiasm.nn.decoder import DecoderConfig
from chiasm.nn.decoders import llama
from chiasm.nn.tower import ImageTowerConfig


@dataclass(frozen=True)
class Config(ModelConfig):
    """vision: the image tower. language: the decoder. connector: from the picture's one vector to its image tokens."""

    vision: ImageTowerConfig
    language: DecoderConfig
    connector: ConnectorConfig = field(default_factory=prefix.Config)

    @classmethod
    def model(cls) -> type[Model]:
        return Frozen

    def processor_entries(self) -> dict[str, Any]:
        layout = {"layout": "fixed", "image_tokens": self.image_tokens, "transform": {"size": self.vision.grid()[0]}}
        return {"context": self.language.context, "layout": layout}

    @property
    def image_tokens(self) -> int:
        """Of a picture."""
        return self.connector.image_tokens(1)


class Frozen(CachesImageFeatures):
    """A tower's pooled features as a few image tokens of a language model that never learns."""

    config: Config

    def __init__(self, config: Config, processor: ChatProcessor) -> None:
        super().__init__(config, processor)
        self.vision, self.language = config.vision.build_pooled(), config.language.build()
        self.connector = config.connector.build(self.vision.width, self.language.width)
        self.language.requires_grad_(False)

    @property
    def needed_layout(self) -> NeededLayout:
        size = self.config.vision.grid()[0]
        return NeededLayout(Fixed, {"transform.size": size, "image_tokens": self.config.image_tokens})

    def image_features(self, images: Images) -> Tensor:
        return self.connector(self.tower_features(images)).flatten(0, 1)

    def tower_features(self, images: Images) -> Tensor:
        """(N, 1, D) of the tower; taken from the batch where they were computed beforehand."""
        return images.features if isinstance(images, ImageFeatures) else self.vision(images)[:, None]

    @property
    def reading(self) -> str:
        return "pooled"

    @property
    def features_shape(self) -> tuple[int, int]:
        return 1, self.vision.width


SIZES = {
    "7b": Config(clip.SIZES["rn50"].vision, llama.SIZES["llama-7b"]),
    "small": Config(llava.SMALL, llama.SIZES["small"]),
}
