"""A language model alone: what many others are built on, and the blind one to compare them with.

Llama (Touvron et al. 2023, arXiv:2302.13971), SmolLM2 (Allal et al. 2025, arXiv:2502.02737), Mistral, Qwen2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chiasm.data.chat_processor import ChatProcessor
from chiasm.models.generative import GenerativeModel
from chiasm.models.model import Model, ModelConfig
from chiasm.nn.decoder import DecoderConfig
from chiasm.nn.decoders import llama


@dataclass(frozen=True)
class Config(ModelConfig):
    """language: the decoder."""

    language: DecoderConfig

    @classmethod
    def model(cls) -> type[Model]:
        return Language

    def processor_entries(self) -> dict[str, Any]:
        return {"context": self.language.context}


class Language(GenerativeModel):
    """Reads words, says words."""

    config: Config

    def __init__(self, config: Config, processor: ChatProcessor) -> None:
        super().__init__(config, processor)
        self.language = config.language.build()


SIZES = {name: Config(language) for name, language in llama.SIZES.items()}
