"""InternVL 1.5 and after: tiles of a picture in a large tower (Chen et al. 2024, arXiv:2404.16821; version 3:
arXiv:2504.10479).

A picture becomes one to twelve tiles of 448 pixels and a view of the whole, of 256 image tokens each."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from chiasm.data.batch import Images
from chiasm.data.layouts.aspect_tiles import AspectTiles
from chiasm.models.connector_vlm import ConnectorVLM
from chiasm.models.model import Model, ModelConfig
from chiasm.models.needed_layout import NeededLayout
from chiasm.nn.connectors import pixel_shuffle_mlp
from chiasm.nn.decoder import DecoderConfig
from chiasm.nn.decoders import llama
from chiasm.nn.image_towers import internvit


@dataclass(frozen=True)
class Config(ModelConfig):
    """vision: the image tower. language: the decoder. connector: between them, over squares of features."""

    vision: internvit.Config
    language: DecoderConfig
    connector: pixel_shuffle_mlp.Config = field(default_factory=pixel_shuffle_mlp.Config)

    @classmethod
    def model(cls) -> type[Model]:
        return InternVL

    def processor_entries(self) -> dict[str, Any]:
        layout = {"layout": "aspect_tiles", "size": self.vision.image_size, "image_tokens": self.image_tokens}
        return {"context": self.language.context, "layout": layout}

    @property
    def image_tokens(self) -> int:
        """Of a tile."""
        return self.connector.image_tokens((self.vision.image_size // self.vision.patch) ** 2)


class InternVL(ConnectorVLM):
    """Every tile through the tower on its own; squares of its features, mapped, stand in the decoder's stream."""

    config: Config

    def image_features(self, images: Images) -> Tensor:
        return self.connector(self.vision.tokens(images)[:, self.vision.prefix :]).flatten(0, 1)

    @property
    def needed_layout(self) -> NeededLayout:
        return NeededLayout(
            AspectTiles, {"size": self.config.vision.image_size, "image_tokens": self.config.image_tokens}
        )


_300M = internvit.Config(448, 14, 1024, 24, 16, 4096)
_6B = internvit.Config(448, 14, 3200, 45, 25, 12_800, norm="rms", bias=False, qk_norm=True)
# InternLM2 has Llama's shape, under names of its own.
_INTERNLM2 = replace(llama.SIZES["llama3-8b"], vocabulary=92_553, context=32_768, theta=1e6)
_INTERNLM2_20B = replace(_INTERNLM2, width=6144, layers=48, heads=48, mlp_width=16_384)
_YI = llama.Config(64_007, 7168, 60, 56, 8, 20_480, 4096, theta=5e6)
_LLAMA3_70B = replace(llama.SIZES["llama3-70b"], vocabulary=128_265)
# Version 3 is built on Qwen2.5, which has Qwen2's shape, and does not tie its head.
_QWEN = replace(llama.SIZES["qwen2-7b"], vocabulary=151_674)
_QWEN_32B = replace(_QWEN, width=5120, layers=64, heads=40, kv_heads=8, mlp_width=27_648)

SIZES = {
    "1.5-26b": Config(_6B, _INTERNLM2_20B),
    "2-1b": Config(_300M, replace(llama.SIZES["qwen2-0.5b"], vocabulary=151_655, tied=False)),
    "2-2b": Config(_300M, replace(_INTERNLM2, width=2048, layers=24, heads=16, mlp_width=8192)),
    "2-8b": Config(_300M, _INTERNLM2),
    "2-26b": Config(_6B, _INTERNLM2_20B),
    "2-40b": Config(_6B, _YI),
    "2-76b": Config(_6B, _LLAMA3_70B),
    "3-1b": Config(_300M, replace(llama.SIZES["qwen2-0.5b"], vocabulary=151_674, tied=False)),
    "3-2b": Config(_300M, replace(llama.SIZES["qwen2-1.5b"], vocabulary=151_674, tied=False)),
    "3-8b": Config(_300M, _QWEN),
    "3-14b": Config(_300M, replace(_QWEN_32B, layers=48, mlp_width=13_824)),
    "3-38b": Config(_6B, _QWEN_32B),
    "3-78b": Config(_6B, replace(llama.SIZES["qwen2-72b"], vocabulary=151_674)),
    # AspectTiles of 64 pixels with 16 image tokens each; trained on a laptop.
    "small": Config(internvit.Config(64, 8, 128, 4, 4, 512), llama.SIZES["small"]),
}
