"""MAPL: few-shot prompting with frozen parts (Mañas et al. 2022, arXiv:2210.07179).

Tower and language model stay as they are; between them a small transformer, all that learns, sums a picture up in 32
image tokens. Differs from the paper: the language model is a Llama as wide as their GPT-J."""

from __future__ import annotations

from dataclasses import dataclass, field

from chiasm.data.chat_processor import ChatProcessor
from chiasm.models import llava
from chiasm.models.llava import LLaVA
from chiasm.models.model import Model
from chiasm.nn.connector import ConnectorConfig
from chiasm.nn.connectors import mapper
from chiasm.nn.decoders import llama


@dataclass(frozen=True)
class Config(llava.Config):
    """As LLaVA's, with a mapper from all features of the last layer, that of the class token too where there is one."""

    connector: ConnectorConfig = field(default_factory=mapper.Config)
    layer: int = -1
    class_token: bool = True

    @classmethod
    def model(cls) -> type[Model]:
        return MAPL


class MAPL(LLaVA):
    """LLaVA of which the connector alone learns."""

    def __init__(self, config: Config, processor: ChatProcessor) -> None:
        super().__init__(config, processor)
        self.vision.requires_grad_(False)
        self.language.requires_grad_(False)


SIZES = {
    "clip-l": Config(llava.CLIP_L, llama.SIZES["llama-7b"]),  # a map of 3.4 million parameters
    "small": Config(
        llava.SMALL, llama.SIZES["small"], mapper.Config(queries=4, width=64, layers=2, heads=2, mlp_width=128)
    ),
}
