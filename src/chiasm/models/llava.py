"""LLaVA: visual instruction tuning (Liu et al. 2023, arXiv:2304.08485), and 1.5 (arXiv:2310.03744).

Version 1 has a linear connector and sees 224 pixels, 1.5 an MLP and 336 pixels: 576 slots a picture."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from chiasm.data.batch import Images
from chiasm.data.chat_processor import ChatProcessor
from chiasm.models.model import Model, ModelConfig
from chiasm.models.speaker import VisualSpeaker
from chiasm.nn.connector import ConnectorConfig
from chiasm.nn.connectors import linear, mlp
from chiasm.nn.decoder import DecoderConfig
from chiasm.nn.decoders import llama
from chiasm.nn.image_towers import vit


@dataclass(frozen=True)
class Config(ModelConfig):
    """vision: the image tower. language: the decoder. connector: between them.

    layer: whose output is read, -1 being the last block's. class_token: whether the class token has a slot too.
    """

    vision: vit.Config
    language: DecoderConfig
    connector: ConnectorConfig = field(default_factory=mlp.Config)
    layer: int = -2
    class_token: bool = False

    @classmethod
    def model(cls) -> type[Model]:
        return LLaVA

    def processor_entries(self) -> dict[str, Any]:
        layout = {"layout": "fixed", "slots": self.patches, "transform": {"size": self.vision.image_size}}
        return {"context": self.language.context, "layout": layout}

    @property
    def patches(self) -> int:
        """Features that a picture has for the connector."""
        return (self.vision.image_size // self.vision.patch) ** 2 + self.class_token


class LLaVA(VisualSpeaker):
    """Patch features of a frozen-born image tower, mapped one by one into the stream of a language model."""

    config: Config

    def __init__(self, config: Config, processor: ChatProcessor) -> None:
        super().__init__(config, processor)
        self.vision, self.language = config.vision.build(), config.language.build()
        self.connector = config.connector.build(self.vision.width, self.language.width)
        # What stands behind the layer that is read is there for the checkpoint's sake, and never learns.
        for unread in (self.vision.norm, *self.vision.blocks[len(self.vision.blocks) + 1 + config.layer :]):
            unread.requires_grad_(False)

    def picture_features(self, images: Images) -> Tensor:
        return self.patch_features(images).flatten(0, 1)

    def patch_features(self, images: Images) -> Tensor:
        """(N, P, D): each patch of each picture, or of each tile, as a vector of the language model."""
        x_NPD = self.vision.hidden(images, self.config.layer)
        if self.vision.class_token is not None and not self.config.class_token:
            x_NPD = x_NPD[:, 1:]
        return self.connector(x_NPD)


_CLIP_L = vit.Config(224, 14, 1024, 24, 16, 4096)
_CLIP_L_336 = replace(_CLIP_L, image_size=336)
# Vicuna's vocabulary, with a token for pictures and one for padding, filled up to a multiple of 64.
_VICUNA = {size: replace(llama.SIZES[size], vocabulary=32_064) for size in ("llama2-7b", "llama2-13b")}

SIZES = {
    "v1-7b": Config(_CLIP_L, replace(llama.SIZES["llama-7b"], vocabulary=32_003), linear.Config()),
    "v1.5-7b": Config(_CLIP_L_336, _VICUNA["llama2-7b"]),
    "v1.5-13b": Config(_CLIP_L_336, _VICUNA["llama2-13b"]),
    # For pictures of 64 pixels, trained on a laptop.
    "small": Config(vit.Config(64, 16, 128, 4, 2, 512, stem=(24, 48, 96, 128)), llama.SIZES["small"], layer=-1),
}
