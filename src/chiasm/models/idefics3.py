"""Idefics3 (Laurençon et al. 2024, arXiv:2408.12637), and SmolVLM, which is the same with smaller parts (Marafioti et
al. 2025, arXiv:2504.05299): tiles of a picture, each of them few image tokens by pixel shuffle: 169 in Idefics3, 64
in SmolVLM of 256 and 500 million parameters, 81 in that of 2.2 billion.

SmolVLM's videos are not read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from chiasm.data.batch import Images
from chiasm.data.layouts.tiled import Tiled
from chiasm.models.connector_vlm import ConnectorVLM
from chiasm.models.model import Model, ModelConfig
from chiasm.models.needed_layout import NeededLayout
from chiasm.nn.connectors import pixel_shuffle_linear
from chiasm.nn.decoder import DecoderConfig
from chiasm.nn.decoders import llama
from chiasm.nn.image_towers import native


@dataclass(frozen=True)
class Config(ModelConfig):
    """vision: the image tower. language: the decoder. connector: between them.

    tile: side of a tile in pixels. longest: the longer side that pictures are scaled to; the most tiles follow from it.
    """

    vision: native.Config
    language: DecoderConfig
    connector: pixel_shuffle_linear.Config
    tile: int
    longest: int

    @classmethod
    def model(cls) -> type[Model]:
        return Idefics3

    def processor_entries(self) -> dict[str, Any]:
        tiles = {
            "tile": self.tile,
            "longest": self.longest,
            "patch": self.vision.patch,
            "image_tokens": self.image_tokens,
        }
        return {"context": self.language.context, "layout": {"layout": "tiled", **tiles}}

    @property
    def image_tokens(self) -> int:
        """Of a tile."""
        return self.connector.image_tokens((self.tile // self.vision.patch) ** 2)


class Idefics3(ConnectorVLM):
    """Squares of patch features, mapped into the stream of a language model that reads where each tile belongs."""

    config: Config

    @property
    def needed_layout(self) -> NeededLayout:
        return NeededLayout(
            Tiled,
            {
                "tile": self.config.tile,
                "patch": self.config.vision.patch,
                "image_tokens": self.config.image_tokens,
            },
        )

    def image_features(self, images: Images) -> Tensor:
        return self.connector(self.vision.tokens(images)).flatten(0, 1)


_SO400M = native.Config(14, 1152, 27, 16, 4304)
_B16 = native.Config(16, 768, 12, 12, 3072, positions=1024)
_LLAMA3 = replace(llama.SIZES["llama3.1-8b"], vocabulary=128_259)


def _smol(size: str, vocabulary: int) -> llama.Config:
    return replace(llama.SIZES[f"smollm2-{size}"], vocabulary=vocabulary, tied=False)


SIZES = {
    "8b": Config(replace(_SO400M, positions=26**2), _LLAMA3, pixel_shuffle_linear.Config(2), 364, 4 * 364),
    "smolvlm-2.2b": Config(
        replace(_SO400M, positions=27**2),
        replace(_smol("1.7b", 49_155), context=16_384, theta=273_768.0),
        pixel_shuffle_linear.Config(3),
        384,
        4 * 384,
    ),
    "smolvlm-500m": Config(_B16, _smol("360m", 49_280), pixel_shuffle_linear.Config(4), 512, 4 * 512),
    "smolvlm-256m": Config(_B16, _smol("135m", 49_280), pixel_shuffle_linear.Config(4), 512, 4 * 512),
    # For pictures of up to 128 pixels a side, trained on a laptop.
    "small": Config(
        native.Config(16, 128, 4, 2, 512, positions=16), llama.SIZES["small"], pixel_shuffle_linear.Config(2), 64, 128
    ),
}
