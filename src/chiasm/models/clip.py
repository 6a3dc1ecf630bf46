"""CLIP: contrastive language-image pre-training (Radford et al. 2021, arXiv:2103.00020).

Differs from the paper: captions are padded to the longest of the batch, not to the context, which changes nothing
that is computed, since text is read causally at its end mark."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from chiasm.data.batch import Images, Tokens
from chiasm.data.processor import PairProcessor
from chiasm.errors import RecipeError
from chiasm.losses.contrastive import info_nce
from chiasm.models.dual_encoder import DualEncoder
from chiasm.models.model import ModelConfig
from chiasm.models.pair_model import unit
from chiasm.nn.image_towers import resnet, vit
from chiasm.nn.text_towers import transformer
from chiasm.nn.tower import ImageTowerConfig, TextTowerConfig

_MAX_LOG_SCALE = math.log(100)  # section 2.5: a larger one makes training unstable


@dataclass(frozen=True)
class Config(ModelConfig):
    """vision, text: the towers. width: D, the shared space. temperature: its first value; it is learned.

    image_dropout, text_dropout: of the towers' features, for heads that are learned on frozen towers from few pairs;
    CLIP itself has none.
    """

    only_in_training = frozenset({"temperature", "image_dropout", "text_dropout"})

    vision: ImageTowerConfig
    text: TextTowerConfig
    width: int
    temperature: float = 0.07
    image_dropout: float = 0.0
    text_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise RecipeError(f"model.temperature must be above 0, not {self.temperature}")

    @classmethod
    def model(cls) -> type[CLIP]:
        return CLIP


class CLIP(DualEncoder):
    """Two towers, a linear map each into a shared space, and a learned temperature."""

    config: Config

    def __init__(self, config: Config, processor: PairProcessor) -> None:
        super().__init__(config, processor)
        self.vision, self.text = config.vision.build_pooled(), config.text.build()
        self.image_head = self.vision.head(config.width)
        self.text_head = nn.Linear(self.text.width, config.width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))
        self.image_dropout, self.text_dropout = nn.Dropout(config.image_dropout), nn.Dropout(config.text_dropout)
        nn.init.normal_(self.image_head.weight, std=self.vision.width**-0.5)
        nn.init.normal_(self.text_head.weight, std=self.text.width**-0.5)

    @property
    def space(self) -> int:
        return self.config.width

    @property
    def scale(self) -> Tensor:
        return self.log_scale.clamp(max=_MAX_LOG_SCALE).exp()

    def encode_images(self, images: Images) -> Tensor:
        return unit(self.image_head(self.image_dropout(self.image_features(images))))

    def encode_texts(self, texts: Tokens) -> Tensor:
        return unit(self.text_head(self.text_dropout(self.text_features(texts))))

    def losses_of(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        scale = self.scale
        loss = info_nce(features["image"], features["text"], scale)
        return {"contrastive": loss, "_temperature": 1 / scale.detach()}


def _text(width: int, **changes: Any) -> transformer.Config:
    """CLIP's text tower: 12 layers, heads of 64, 49,408 byte pairs, 77 tokens."""
    base = transformer.Config(49_408, 77, width, layers=12, heads=width // 64, mlp_width=4 * width)
    return replace(base, **changes)


def _vit(image_size: int, patch: int, width: int, layers: int, **changes: Any) -> vit.Config:
    base = vit.Config(image_size, patch, width, layers, heads=width // 64, mlp_width=4 * width)
    return replace(base, **changes)


def _resnet(image_size: int, channels: int, *layers: int) -> resnet.Config:
    first, second, third, fourth = layers
    return resnet.Config(image_size, channels, (first, second, third, fourth), heads=channels * 32 // 64)


# Tables 19 and 20 of the paper; then the larger ones of OpenCLIP (Cherti et al. 2022, arXiv:2212.07143), which use the
# exact GELU; the last is a small one for pictures of 64 pixels that trains on a laptop.
SIZES = {
    "rn50": Config(_resnet(224, 64, 3, 4, 6, 3), _text(512), 1024),
    "rn101": Config(_resnet(224, 64, 3, 4, 23, 3), _text(512), 512),
    "rn50x4": Config(_resnet(288, 80, 4, 6, 10, 6), _text(640), 640),
    "rn50x16": Config(_resnet(384, 96, 6, 8, 18, 8), _text(768), 768),
    "rn50x64": Config(_resnet(448, 128, 3, 15, 36, 10), _text(1024), 1024),
    "vit-b-32": Config(_vit(224, 32, 768, 12), _text(512), 512),
    "vit-b-16": Config(_vit(224, 16, 768, 12), _text(512), 512),
    "vit-l-14": Config(_vit(224, 14, 1024, 24), _text(768), 768),
    "vit-l-14-336": Config(_vit(336, 14, 1024, 24), _text(768), 768),
    "vit-h-14": Config(_vit(224, 14, 1280, 32, heads=16, act="gelu"), _text(1024, layers=24, act="gelu"), 1024),
    "vit-g-14": Config(
        _vit(224, 14, 1408, 40, heads=16, mlp_width=6144, act="gelu"), _text(1024, layers=24, act="gelu"), 1024
    ),
    "vit-bigg-14": Config(
        _vit(224, 14, 1664, 48, heads=16, mlp_width=8192, act="gelu"), _text(1280, layers=32, act="gelu"), 1280
    ),
    "small": Config(
        _vit(64, 16, 128, 4, stem=(24, 48, 96, 128)), _text(128, vocabulary=512, context=40, layers=2), 128
    ),
}
