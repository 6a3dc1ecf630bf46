"""Kosmos-2 (Peng et al. 2023, arXiv:2306.14824): a decoder that grounds phrases, naming boxes by location tokens.

CLIP's tower, 64 latents a picture, and a MAGNETO decoder. A box is two tokens of a 32 x 32 grid; see the convention
`kosmos` in data/box_texts. Differs from the paper: no dropout in training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from chiasm.data.batch import Images
from chiasm.data.layouts.fixed import Fixed
from chiasm.models.connector_vlm import ConnectorVLM
from chiasm.models.model import Model, ModelConfig
from chiasm.models.needed_layout import NeededLayout
from chiasm.nn.connector import ConnectorConfig
from chiasm.nn.connectors import latent_attention
from chiasm.nn.decoder import DecoderConfig
from chiasm.nn.decoders import magneto
from chiasm.nn.image_towers import vit


@dataclass(frozen=True)
class Config(ModelConfig):
    """vision: the image tower. language: the decoder. connector: between them."""

    vision: vit.Config
    language: DecoderConfig
    connector: ConnectorConfig = field(default_factory=latent_attention.Config)

    @classmethod
    def model(cls) -> type[Model]:
        return Kosmos2

    def processor_entries(self) -> dict[str, Any]:
        transform = {"size": self.vision.image_size}
        layout = {"layout": "fixed", "image_tokens": self.image_tokens, "transform": transform}
        return {"context": self.language.context, "layout": layout, "boxes": {"boxes": "kosmos"}}

    @property
    def image_tokens(self) -> int:
        """Of a picture."""
        patches = (self.vision.image_size // self.vision.patch) ** 2 + (self.vision.pool == "class")
        return self.connector.image_tokens(patches)


class Kosmos2(ConnectorVLM):
    """Normalised tokens of a picture, scaled to unit length and resampled into the stream of a language model."""

    config: Config

    @property
    def needed_layout(self) -> NeededLayout:
        return NeededLayout(
            Fixed, {"transform.size": self.config.vision.image_size, "image_tokens": self.config.image_tokens}
        )

    def image_features(self, images: Images) -> Tensor:
        return self.connector(F.normalize(self.vision.tokens(images), dim=-1)).flatten(0, 1)


SIZES = {
    "patch14-224": Config(vit.Config(224, 14, 1024, 24, 16, 4096), magneto.SIZES["kosmos-2"]),
    # For pictures of 64 pixels, trained on a laptop.
    "small": Config(
        vit.Config(64, 16, 128, 4, 2, 512, stem=(24, 48, 96, 128)),
        magneto.SIZES["small"],
        latent_attention.Config(latents=16, heads=4),
    ),
}
