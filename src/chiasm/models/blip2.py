"""BLIP-2, second stage: a frozen image tower and a frozen language model, and a Q-Former that learns to stand between
them (Li et al. 2023, arXiv:2301.12597). The first stage, from which the Q-Former comes, is `blip2_stage1`.

A picture takes 32 image tokens at the very start; words follow. Freeze the two towers with `training.parts`, and begin
with `pretrained: {connector.q_former: {checkpoint: STAGE1, part: q_former}, vision: {checkpoint: STAGE1}}`.

Differs from the paper: the language model is a decoder (OPT, or any other here); Flan-T5, which has an encoder too, is
not here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from chiasm.data.batch import Images
from chiasm.data.layouts.fixed import Fixed
from chiasm.errors import RecipeError
from chiasm.models.connector_vlm import ConnectorVLM
from chiasm.models.model import Model, ModelConfig
from chiasm.models.needed_layout import NeededLayout
from chiasm.nn.connector import ConnectorConfig
from chiasm.nn.connectors import q_former
from chiasm.nn.decoder import DecoderConfig
from chiasm.nn.decoders import opt
from chiasm.nn.image_towers import vit

TEMPLATES = Path(__file__).parent / "templates"
TEMPLATE = TEMPLATES / "blip2.jinja"  # the paper's question, "Question: ... Answer:", for texts that have roles

# EVA-CLIP's ViT-g (Fang et al. 2022, arXiv:2211.07636) without its last layer. Its keys have a bias here, as in
# transformers' files, where it is zero; no attention depends on it.
EVA_G = vit.Config(
    224, 14, 1408, layers=39, heads=16, mlp_width=6144, pool="class", act="gelu", pre_norm=False, epsilon=1e-6
)
SMALL_VIT = vit.Config(
    64, 16, 128, 4, 2, 512, pool="class", act="gelu", pre_norm=False, epsilon=1e-6, stem=(24, 48, 96, 128)
)
SMALL_Q_FORMER = q_former.Config(queries=8, width=128, layers=4, heads=2, mlp_width=512)


@dataclass(frozen=True)
class Config(ModelConfig):
    """vision: the image tower. language: the decoder. connector: between them.

    class_token: whether the connector is given the tower's class token before the patches.
    """

    vision: vit.Config
    language: DecoderConfig
    connector: ConnectorConfig = field(default_factory=q_former.Config)
    class_token: bool = True

    def __post_init__(self) -> None:
        if self.class_token and self.vision.pool != "class":
            raise RecipeError("model.class_token: this image tower has none; set it to false")

    @classmethod
    def model(cls) -> type[Model]:
        return BLIP2

    def processor_entries(self) -> dict[str, Any]:
        transform = {"size": self.vision.image_size, "resize": "squash"}
        layout = {"layout": "fixed", "image_tokens": self.image_tokens, "transform": transform}
        return {"context": self.language.context, "layout": layout, "template": str(TEMPLATE)}

    @property
    def image_tokens(self) -> int:
        """Of a picture."""
        return self.connector.image_tokens((self.vision.image_size // self.vision.patch) ** 2 + self.class_token)


class BLIP2(ConnectorVLM):
    """What a connector makes of a tower's features stands in the stream of a language model."""

    config: Config

    def image_features(self, images: Images) -> Tensor:
        x_NPF = self.vision.tokens(images)
        if not self.config.class_token:
            x_NPF = x_NPF[:, self.vision.prefix :]
        return self.connector(x_NPF).flatten(0, 1)

    @property
    def needed_layout(self) -> NeededLayout:
        return NeededLayout(
            Fixed, {"transform.size": self.config.vision.image_size, "image_tokens": self.config.image_tokens}
        )


# OPT as BLIP-2's published files have it: with a token for pictures, filled up to a multiple of 32.
_OPT = {size: replace(opt.SIZES[size], vocabulary=50_304) for size in ("2.7b", "6.7b")}

SIZES = {
    "opt-2.7b": Config(EVA_G, _OPT["2.7b"]),
    "opt-6.7b": Config(EVA_G, _OPT["6.7b"]),
    # For pictures of 64 pixels, trained on a laptop.
    "small": Config(SMALL_VIT, opt.SIZES["small"], SMALL_Q_FORMER),
}
