"""A language model alone: what many others are built on, and the blind one to compare them with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from chiasm.data.batch import Images
from chiasm.data.chat_processor import ChatProcessor
from chiasm.errors import CapabilityError
from chiasm.models.model import Model, ModelConfig
from chiasm.models.speaker import Speaker
from chiasm.nn.decoder import DecoderConfig
from chiasm.nn.decoders import llama


@dataclass(frozen=True)
class Config(ModelConfig):
    """language: the decoder."""

    language: DecoderConfig

    @classmethod
    def model(cls) -> type[Model]:
        return Language


class Language(Speaker):
    """Reads words, says words."""

    config: Config

    def __init__(self, config: Config, processor: ChatProcessor) -> None:
        super().__init__(config, processor)
        self.language = config.language.build()

    def picture_features(self, images: Images) -> Tensor:
        raise CapabilityError(f"a language model alone cannot see; {len(images)} pictures were given")


SIZES = {name: Config(language) for name, language in llama.SIZES.items()}
