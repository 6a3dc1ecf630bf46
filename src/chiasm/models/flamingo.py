"""Flamingo (Alayrac et al. 2022, arXiv:2204.14198) and Idefics (Laurençon et al. 2023, arXiv:2306.16527): a language
model that looks at pictures between its blocks, through gates that begin closed.

A picture is one token of the stream. What it shows, resampled to a few features, stands beside the stream, and every
token sees the last picture before it. Flamingo's own language model, Chinchilla, was never released; Idefics has
Llama's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from chiasm.data.batch import Batch, Images
from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.layouts.marked import Marked
from chiasm.errors import DataError
from chiasm.generation.prompt import Prompt
from chiasm.models.generative import VisionLanguageModel
from chiasm.models.model import Model, ModelConfig
from chiasm.models.needed_layout import NeededLayout
from chiasm.nn import cross
from chiasm.nn.connector import ConnectorConfig
from chiasm.nn.connectors import resampler
from chiasm.nn.decoder import DecoderConfig
from chiasm.nn.decoders import llama
from chiasm.nn.image_towers import vit
from chiasm.nn.visible_images import EncoderStates, VisibleImages, last_seen


@dataclass(frozen=True)
class Config(ModelConfig):
    """vision: the image tower. language: the decoder. cross: the blocks between its own, by which it looks.

    connector: makes of a picture's features, at the tower's width, those that are seen.
    """

    vision: vit.Config
    language: DecoderConfig
    cross: cross.Config
    connector: ConnectorConfig = field(default_factory=resampler.Config)

    @classmethod
    def model(cls) -> type[Model]:
        return Flamingo

    def processor_entries(self) -> dict[str, Any]:
        layout = {"layout": "marked", "transform": {"size": self.vision.image_size}}
        return {"context": self.language.context, "layout": layout}


class Flamingo(VisionLanguageModel):
    """Pictures stand beside the stream of a language model, and gated cross-attention reads them."""

    config: Config

    def __init__(self, config: Config, processor: ChatProcessor) -> None:
        super().__init__(config, processor)
        self.vision = config.vision.build()
        self.connector = config.connector.build(self.vision.width, self.vision.width)
        self.language = config.cross.around(config.language.build(), self.vision.width)
        self.vision.norm.requires_grad_(False)  # of the class token alone, which is not read so

    @property
    def needed_layout(self) -> NeededLayout:
        return NeededLayout(Marked, {"transform.size": self.config.vision.image_size})

    @property
    def unshareable_ids(self) -> tuple[int, ...]:
        return (*self.processor.image_token_ids, *self._until)

    def image_features(self, images: Images) -> Tensor:
        """(S, D): what is seen of these pictures, in order, at the width of the image tower."""
        return self.connector(self.vision.hidden_states(images, -1)).flatten(0, 1)

    def embedded(self, batch: Batch) -> Prompt:
        """The stream as words, with its pictures beside it. Raises DataError where marks and pictures differ."""
        words = batch.stream
        assert words is not None
        x_TD, marks = self.language.embed(words.ids_T), int(words.image_mask_T.sum())
        shown = len(batch.images) if batch.images is not None else 0
        if marks != shown:
            raise DataError(
                f"the stream of {', '.join(batch.keys[:4])} marks {marks} pictures, but has {shown}; the processor's "
                "layout does not fit the model"
            )
        if batch.images is None and batch.dummy_images is not None:
            unseen_T2 = torch.zeros(len(x_TD), 2, dtype=torch.long)
            states = EncoderStates(self.image_features(batch.dummy_images))
            return self._prompt(words, x_TD, VisibleImages(states, unseen_T2))
        if batch.images is None:
            return self._prompt(words, x_TD)
        return self._prompt(words, x_TD, self.visible(batch, self.image_features(batch.images)))

    def visible(self, batch: Batch, features_SD: Tensor) -> VisibleImages:
        """Every token sees the last picture before it."""
        words, images = batch.stream, batch.images
        assert words is not None
        assert images is not None
        ends_T = torch.isin(words.ids_T, torch.tensor(self._until, dtype=torch.long, device=words.ids_T.device))
        runs_T2 = last_seen(words.image_mask_T, ends_T, words.lengths_B.tolist(), len(features_SD) // len(images))
        return VisibleImages(EncoderStates(features_SD), runs_T2)

    def expected_zero_grad(self) -> frozenset[str]:
        """What comes after closed gates; the pictures' parts too, while every layer's gate to them is closed."""
        found = {
            f"language.look.{at}.{name}" for at, look in enumerate(self._looks) for name in look.expected_zero_grad()
        }
        if not any(look.gate1.any() for look in self._looks):
            parts = {"vision": self.vision, "connector": self.connector}
            found |= {f"{part}.{name}" for part, module in parts.items() for name, _ in module.named_parameters()}
        return frozenset(found)

    @property
    def _looks(self) -> list[cross.GatedCross]:
        return [look for look in self.language.modules() if isinstance(look, cross.GatedCross)]

    @property
    def _until(self) -> tuple[int, ...]:
        """The token after which an image is no longer seen, if there is one."""
        layout = self.processor.layout
        return tuple(self.processor.ids(layout.until)) if isinstance(layout, Marked) and layout.until else ()


_CLIP_H = vit.Config(224, 14, 1280, 32, 16, 5120, act="gelu")

SIZES = {
    "idefics-9b": Config(
        _CLIP_H,
        replace(llama.SIZES["llama-7b"], vocabulary=32_002),  # Llama's, a mark of pictures, and one around them
        cross.Config(heads=32, mlp_width=11_008),
    ),
    "idefics-80b": Config(
        _CLIP_H,
        llama.Config(32_002, 8_192, 80, 64, 64, 22_016, 2_048, epsilon=1e-5),
        cross.Config(heads=64, mlp_width=22_016, epsilon=1e-5),
    ),
    # For pictures of 64 pixels, trained on a laptop. Its words are not learned yet, so nothing asks for closed gates.
    "small": Config(
        vit.Config(64, 16, 128, 4, 2, 512, stem=(24, 48, 96, 128)),
        llama.SIZES["small"],
        cross.Config(heads=4, mlp_width=384, every=2, gate=0.5),
        resampler.Config(latents=8, layers=2, heads=4, head_width=32),
    ),
}
