"""LLaVA: visual instruction tuning (Liu et al. 2023, arXiv:2304.08485), and 1.5 (arXiv:2310.03744).

Version 1 has a linear connector and sees 224 pixels, 1.5 an MLP and 336 pixels: 576 image tokens a picture."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from chiasm.data.batch import ImageFeatures, Images
from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.layouts.fixed import Fixed
from chiasm.errors import RecipeError
from chiasm.models.generative_features import CachesImageFeatures
from chiasm.models.model import Model, ModelConfig
from chiasm.models.needed_layout import NeededLayout
from chiasm.nn.connector import ConnectorConfig
from chiasm.nn.connectors import linear, mlp
from chiasm.nn.decoder import DecoderConfig
from chiasm.nn.decoders import llama
from chiasm.nn.image_towers import vit
from chiasm.nn.tower import ImageTowerConfig


@dataclass(frozen=True)
class Config(ModelConfig):
    """vision: the image tower; its pictures are square, of one size. language: the decoder. connector: between them.

    layer: whose output is read, -1 being the last block's. class_token: whether the class token has an image token too.
    """

    vision: ImageTowerConfig
    language: DecoderConfig
    connector: ConnectorConfig = field(default_factory=mlp.Config)
    layer: int = -2
    class_token: bool = False

    @classmethod
    def model(cls) -> type[Model]:
        return LLaVA

    def processor_entries(self) -> dict[str, Any]:
        layout = {"layout": "fixed", "image_tokens": self.image_tokens, "transform": {"size": self.vision.grid()[0]}}
        return {"context": self.language.context, "layout": layout}

    @property
    def patches(self) -> int:
        """Features that a picture has for the connector."""
        return self.vision.grid()[1] ** 2 + self.class_token

    @property
    def image_tokens(self) -> int:
        """Of a picture, where all are of one size."""
        return self.connector.image_tokens(self.patches)


class LLaVA(CachesImageFeatures):
    """Features of an image tower, led by a connector into the stream of a language model."""

    config: Config

    def __init__(self, config: Config, processor: ChatProcessor) -> None:
        super().__init__(config, processor)
        self.vision, self.language = config.vision.build(), config.language.build()
        self.connector = config.connector.build(self.vision.width, self.language.width)
        # What comes after the layer that is read is there for the checkpoint's sake, and never learns.
        for unread in self.vision.unread(config.layer):
            unread.requires_grad_(False)
        if config.class_token and not self.vision.prefix:
            raise RecipeError(f"model.class_token: the tower '{config.vision.chosen()}' has no class token")

    @property
    def needed_layout(self) -> NeededLayout:
        size = self.config.vision.grid()[0]
        return NeededLayout(Fixed, {"transform.size": size, "image_tokens": self.config.image_tokens})

    def image_features(self, images: Images) -> Tensor:
        return self.patch_features(images).flatten(0, 1)

    def patch_features(self, images: Images) -> Tensor:
        """(N, P, D): each patch of each picture, or of each tile, as a vector of the language model."""
        return self.connector(self.tower_features(images))

    def tower_features(self, images: Images) -> Tensor:
        """(N, P, D) of the tower; taken from the batch where they were computed beforehand."""
        if isinstance(images, ImageFeatures):
            return images.features
        x_NPD = self.vision.hidden_states(images, self.config.layer)
        return x_NPD if self.config.class_token else x_NPD[:, self.vision.prefix :]

    @property
    def reading(self) -> str:
        return f"layer {self.config.layer}, class token: {self.config.class_token}"

    @property
    def features_shape(self) -> tuple[int, int]:
        return self.config.patches, self.vision.width


CLIP_L = vit.Config(224, 14, 1024, 24, 16, 4096)
CLIP_L_336 = replace(CLIP_L, image_size=336)
SMALL = vit.Config(64, 16, 128, 4, 2, 512, stem=(24, 48, 96, 128))  # for pictures of 64 pixels, trained on a laptop
# Vicuna's vocabulary, with a token for pictures and one for padding, filled up to a multiple of 64.
_VICUNA = {size: replace(llama.SIZES[size], vocabulary=32_064) for size in ("llama2-7b", "llama2-13b")}

SIZES = {
    "v1-7b": Config(CLIP_L, replace(llama.SIZES["llama-7b"], vocabulary=32_003), linear.Config()),
    "v1.5-7b": Config(CLIP_L_336, _VICUNA["llama2-7b"]),
    "v1.5-13b": Config(CLIP_L_336, _VICUNA["llama2-13b"]),
    "small": Config(SMALL, llama.SIZES["small"], layer=-1),
}
