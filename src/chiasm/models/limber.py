"""LiMBeR: linearly mapping from image to text space (Merullo et al. 2022, arXiv:2209.15162).

Tower and language model are trained apart and stay as they are; one linear map leads each feature of the tower's grid
into the stream, and is all that learns. So a caption tells how much of a picture the two have in common already.
Differs from the paper: the language model is a Llama as wide as their GPT-J; of its towers, CLIP's ResNet is here."""

from __future__ import annotations

from dataclasses import dataclass, field

from chiasm.data.chat_processor import ChatProcessor
from chiasm.models import clip, llava
from chiasm.models.llava import LLaVA
from chiasm.models.model import Model
from chiasm.nn.connector import ConnectorConfig
from chiasm.nn.connectors import linear
from chiasm.nn.decoders import llama


@dataclass(frozen=True)
class Config(llava.Config):
    """As LLaVA's, with a linear map from the last layer."""

    connector: ConnectorConfig = field(default_factory=linear.Config)
    layer: int = -1

    @classmethod
    def model(cls) -> type[Model]:
        return LiMBeR


class LiMBeR(LLaVA):
    """LLaVA of which the connector alone learns."""

    def __init__(self, config: Config, processor: ChatProcessor) -> None:
        super().__init__(config, processor)
        self.vision.requires_grad_(False)
        self.language.requires_grad_(False)


SIZES = {
    "clip-rn50x16": Config(clip.SIZES["rn50x16"].vision, llama.SIZES["llama-7b"]),  # 144 image tokens
    "small": Config(llava.SMALL, llama.SIZES["small"]),
}
