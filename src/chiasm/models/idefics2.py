"""Idefics2 (Laurençon et al. 2024, arXiv:2405.02246): pictures at their own aspect ratio, in quarters and as a whole,
each part resampled to 64 image tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from chiasm.data.batch import Images
from chiasm.data.layouts.native import Native
from chiasm.models.connector_vlm import ConnectorVLM
from chiasm.models.model import Model, ModelConfig
from chiasm.models.needed_layout import NeededLayout
from chiasm.nn.connectors import perceiver
from chiasm.nn.decoder import DecoderConfig
from chiasm.nn.decoders import llama
from chiasm.nn.image_towers import native
from chiasm.nn.image_towers.naflex import patch_mask


@dataclass(frozen=True)
class Config(ModelConfig):
    """vision: the image tower. language: the decoder. connector: between them.

    shortest, longest: bounds of the sides of a part of a picture, in pixels.
    """

    vision: native.Config
    language: DecoderConfig
    connector: perceiver.Config
    shortest: int = 378
    longest: int = 980

    @classmethod
    def model(cls) -> type[Model]:
        return Idefics2

    def processor_entries(self) -> dict[str, Any]:
        sides = {"shortest": self.shortest, "longest": self.longest}
        parts = {"patch": self.vision.patch, "image_tokens": self.connector.latents, **sides}
        return {"context": self.language.context, "layout": {"layout": "native", **parts}}


class Idefics2(ConnectorVLM):
    """Patch features of any number, resampled to a few vectors in the stream of a language model."""

    config: Config

    @property
    def needed_layout(self) -> NeededLayout:
        return NeededLayout(Native, {"patch": self.config.vision.patch, "image_tokens": self.config.connector.latents})

    def image_features(self, images: Images) -> Tensor:
        return self.connector(self.vision.tokens(images), patch_mask(images)).flatten(0, 1)


SIZES = {
    "8b": Config(
        native.Config(14, 1152, 27, 16, 4304, positions=70**2),
        replace(llama.SIZES["mistral-7b"], vocabulary=32_003),
        perceiver.Config(mlp_width=14_336),
    ),
    # For small pictures, trained on a laptop.
    "small": Config(
        native.Config(16, 128, 4, 2, 512, positions=64),
        llama.SIZES["small"],
        perceiver.Config(mlp_width=384, latents=8, layers=2, heads=4, head_width=32, kv_heads=2),
        shortest=32,
        longest=96,
    ),
}
