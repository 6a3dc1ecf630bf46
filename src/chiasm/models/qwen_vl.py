"""Qwen-VL (Bai et al. 2023, arXiv:2308.12966): pictures of 448 pixels, resampled to 256 image tokens between two marks.

Boxes are text: "(x1,y1),(x2,y2)" in thousandths of the sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from chiasm.data.batch import Images
from chiasm.data.layouts.fixed import Fixed
from chiasm.models.connector_vlm import ConnectorVLM
from chiasm.models.model import Model, ModelConfig
from chiasm.models.needed_layout import NeededLayout
from chiasm.nn.connectors import cross_attention
from chiasm.nn.decoder import DecoderConfig
from chiasm.nn.decoders import llama
from chiasm.nn.image_towers import bare


@dataclass(frozen=True)
class Config(ModelConfig):
    """vision: the image tower. language: the decoder. connector: between them."""

    vision: bare.Config
    language: DecoderConfig
    connector: cross_attention.Config

    @classmethod
    def model(cls) -> type[Model]:
        return QwenVL

    def processor_entries(self) -> dict[str, Any]:
        """Pictures as the published tokenizer writes them: numbered, each on a line of its own."""
        marks = {"token": "<imgpad>", "before": "<img>", "behind": "</img>\n", "number": "Picture {}: "}
        transform = {"size": self.vision.image_size, "resize": "squash"}
        layout = {"layout": "fixed", "image_tokens": self.connector.queries, "transform": transform, **marks}
        return {"context": self.language.context, "layout": layout}


class QwenVL(ConnectorVLM):
    """Features of a picture, read by a fixed number of queries, in the stream of a language model."""

    config: Config

    @property
    def needed_layout(self) -> NeededLayout:
        return NeededLayout(
            Fixed, {"transform.size": self.config.vision.image_size, "image_tokens": self.config.connector.queries}
        )

    def image_features(self, images: Images) -> Tensor:
        return self.connector(self.vision.tokens(images)).flatten(0, 1)


BIGG = bare.Config(448, 14, 1664, 48, 16, 8192)
# Qwen-7B. Beyond 2,048 tokens the published code stretches its rotary positions, which is not done here.
QWEN = llama.Config(151_936, 4096, 32, 32, 32, 11_008, 2048, epsilon=1e-6, qkv_bias=True)

SIZES = {
    "9.6b": Config(BIGG, QWEN, cross_attention.Config(256, 32, "shared")),
    # For pictures of 64 pixels, trained on a laptop.
    "small": Config(
        bare.Config(64, 8, 128, 4, 4, 512, positions=16), llama.SIZES["small"], cross_attention.Config(16, 4, "shared")
    ),
}
