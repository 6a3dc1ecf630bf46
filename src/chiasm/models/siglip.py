"""SigLIP: sigmoid loss for language-image pre-training (Zhai et al. 2023, arXiv:2303.15343)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from chiasm.data.batch import Images, Tokens
from chiasm.data.processor import PairProcessor
from chiasm.errors import RecipeError
from chiasm.losses.sigmoid import pairwise_sigmoid
from chiasm.models.dual_encoder import DualEncoder
from chiasm.models.model import ModelConfig
from chiasm.models.pair_model import unit
from chiasm.nn.image_towers import vit
from chiasm.nn.text_towers import transformer
from chiasm.nn.tower import ImageTowerConfig, TextTowerConfig


@dataclass(frozen=True)
class Config(ModelConfig):
    """vision, text: the towers; the vision tower's width is the shared space.

    scale, bias: first values of the learned scale (1 / temperature) and bias of the logits (section 3.2).
    text_head: whether the text's features are mapped into the space; without it they are in it as they are.
    """

    only_in_training = frozenset({"scale", "bias"})

    vision: ImageTowerConfig
    text: TextTowerConfig
    scale: float = 10.0
    bias: float = -10.0
    text_head: bool = True

    def __post_init__(self) -> None:
        text, vision = getattr(self.text, "width", None), getattr(self.vision, "width", None)
        if not self.text_head and text != vision:
            raise RecipeError(f"a text tower of width {text} needs model.text_head to reach a space of {vision}")

    @classmethod
    def model(cls) -> type[SigLIP]:
        return SigLIP


class SigLIP(DualEncoder):
    """Two towers, of which only the text's has a head; every pair of the batch is judged on its own."""

    config: Config

    def __init__(self, config: Config, processor: PairProcessor) -> None:
        super().__init__(config, processor)
        self.vision, self.text = config.vision.build_pooled(), config.text.build()
        self.text_head = nn.Linear(self.text.width, self.vision.width) if config.text_head else nn.Identity()
        self.log_scale = nn.Parameter(torch.tensor(math.log(config.scale)))
        self.bias = nn.Parameter(torch.tensor(config.bias))
        if isinstance(self.text_head, nn.Linear):
            nn.init.normal_(self.text_head.weight, std=self.text.width**-0.5)
            nn.init.zeros_(self.text_head.bias)

    @property
    def space(self) -> int:
        return self.vision.width

    def encode_images(self, images: Images) -> Tensor:
        return unit(self.image_features(images))

    def encode_texts(self, texts: Tokens) -> Tensor:
        return unit(self.text_head(self.text_features(texts)))

    def losses_of(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        loss = pairwise_sigmoid(features["image"], features["text"], self.scale, self.bias)
        return {"sigmoid": loss, "_temperature": (-self.log_scale).exp().detach(), "_bias": self.bias.detach()}

    def logit_scale_and_bias(self) -> tuple[float, float]:
        return float(self.scale.detach()), float(self.bias.detach())


def _towers(
    image_size: int, patch: int, width: int, layers: int, mlp_width: int, heads: int, context: int = 64
) -> Config:
    """Both towers of one shape, as in the paper's code (big_vision); the text is of sentencepiece's 32,000 tokens."""
    vision = vit.Config(
        image_size, patch, width, layers, heads, mlp_width, pool="map", act="gelu_tanh", pre_norm=False, epsilon=1e-6
    )
    text = transformer.Config(
        32_000, context, width, layers, heads, mlp_width, causal=False, act="gelu_tanh", epsilon=1e-6
    )
    return Config(vision, text)


SIZES = {
    **{f"b-16-{size}": _towers(size, 16, 768, 12, 3072, 12) for size in (224, 256, 384, 512)},
    **{f"l-16-{size}": _towers(size, 16, 1024, 24, 4096, 16) for size in (256, 384)},
    "so400m-14-224": _towers(224, 14, 1152, 27, 4304, 16, context=16),
    "so400m-14-384": _towers(384, 14, 1152, 27, 4304, 16),
    # For pictures of 64 pixels, trained on a laptop: towers as small as those of CLIP's "small".
    "small": Config(
        vit.Config(64, 16, 128, 4, 2, 512, "map", "gelu_tanh", pre_norm=False, epsilon=1e-6, stem=(24, 48, 96, 128)),
        transformer.Config(512, 40, 128, 2, 2, 512, causal=False, act="gelu_tanh", epsilon=1e-6),
    ),
}
