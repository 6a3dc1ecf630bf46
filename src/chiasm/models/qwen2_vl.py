"""Qwen2-VL: pictures and videos at any resolution (Wang et al. 2024, arXiv:2409.12191).

An image token stands for 28x28 pixels, however many of them a picture has; positions in the stream have three axes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from chiasm.data.batch import Images
from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.layouts.packed import PackedPatches
from chiasm.errors import RecipeError
from chiasm.models.generative import VisionLanguageModel
from chiasm.models.model import Model, ModelConfig
from chiasm.models.needed_layout import NeededLayout
from chiasm.nn import packed_vit
from chiasm.nn.decoder import DecoderConfig
from chiasm.nn.decoders import llama


@dataclass(frozen=True)
class Config(ModelConfig):
    """vision: the tower over packed patches. language: the decoder; its rotary positions have three sections."""

    vision: packed_vit.Config
    language: DecoderConfig

    @classmethod
    def model(cls) -> type[Model]:
        return Qwen2VL

    def processor_entries(self) -> dict[str, Any]:
        """A picture has at least four image tokens, and at most half of the context: 16,384 in the published models."""
        image_token = (self.vision.patch * self.vision.merge) ** 2
        bounds = {"min_pixels": 4 * image_token, "max_pixels": self.language.context // 2 * image_token}
        frames = {"video_min_pixels": bounds["min_pixels"], "video_max_pixels": bounds["max_pixels"]}
        parts = {"patch": self.vision.patch, "merge": self.vision.merge, "time": self.vision.time}
        return {"context": self.language.context, "layout": {"layout": "packed", **parts, **bounds, **frames}}


class Qwen2VL(VisionLanguageModel):
    """A tower over patches of all images, four of which are merged into one image token of a language model."""

    config: Config

    def __init__(self, config: Config, processor: ChatProcessor) -> None:
        super().__init__(config, processor)
        self.vision, self.language = config.vision.build(), config.language.build()
        self.connector = packed_vit.PatchMerger(config.vision, self.language.width)

    def image_features(self, images: Images) -> Tensor:
        return self.connector(self.vision(images))

    @property
    def needed_layout(self) -> NeededLayout:
        tower = self.config.vision
        return NeededLayout(PackedPatches, {"patch": tower.patch, "merge": tower.merge, "time": tower.time})

    def check(self) -> None:
        super().check()
        if self.language.rotary is None or len(self.language.rotary.sections) != 3:
            raise RecipeError("the decoder needs rotary positions with three sections; set model.language.sections")


_TOWER = packed_vit.Config(14, 1280, 32, 16, 5120)


def _turned(size: str) -> llama.Config:
    return replace(llama.SIZES[size], sections=(16, 24, 24))


SIZES = {
    "2b": Config(_TOWER, _turned("qwen2-1.5b")),
    "7b": Config(_TOWER, _turned("qwen2-7b")),
    "72b": Config(_TOWER, _turned("qwen2-72b")),
    # For pictures of up to 256x256 pixels, trained on a laptop.
    "small": Config(packed_vit.Config(8, 128, 4, 4, 512), replace(llama.SIZES["small"], sections=(4, 6, 6))),
}
