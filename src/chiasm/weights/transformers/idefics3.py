"""Idefics3 as transformers stores it (Idefics3ForConditionalGeneration). The first SmolVLMs are stored as such too."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from chiasm.data.layouts.tiled import Tiled
from chiasm.errors import CheckpointError
from chiasm.models.idefics3 import Config, Idefics3
from chiasm.nn.connectors import pixel_shuffle_linear
from chiasm.nn.decoder import DecoderConfig
from chiasm.weights.chats import image_token_id, read_chat, token_of
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.mapping import Rule
from chiasm.weights.transformers import _idefics
from chiasm.weights.transformers._language import decoder_section
from chiasm.weights.transformers._tiles import Tiles, one_side, read_tiles, tiles_section
from chiasm.weights.transformers._towers import Vision

MODEL = Idefics3

# What transformers takes where a config says nothing.
_VISION = Vision(1152, 3072, 12, 16, "gelu_pytorch_tanh", 1e-6, image_size=224, patch_size=32)
_TEXT = {"rms_norm_eps": 1e-5}


@dataclass(frozen=True)
class _Settings(Tiles):
    """A `preprocessor_config.json`."""

    resample: int = 1
    size: dict[str, int] = field(default_factory=lambda: {"longest_edge": 4 * 364})
    max_image_size: dict[str, int] = field(default_factory=lambda: {"longest_edge": 364})
    do_image_splitting: bool = True


def load(folder: CheckpointFolder) -> Idefics3:
    """The model in a folder, with its processor, in evaluation mode."""
    settings = folder.settings
    where = str(folder / "config.json")
    decoder = _idefics.read_text(settings, "llama", _TEXT, where)
    vision = _idefics.read_vision(_VISION, settings, where)
    pixels, transform, file = read_tiles(_Settings(), folder)
    if pixels.size.keys() != {"longest_edge"}:
        raise CheckpointError(f"{file}: size is {pixels.size}; pictures are scaled to a longest_edge")
    tile = one_side(pixels.max_image_size, "max_image_size", file)
    connector = pixel_shuffle_linear.Config(int(settings.get("scale_factor", 2)))
    config = Config(vision, decoder, connector, tile, pixels.size["longest_edge"])
    image_token = token_of(folder, image_token_id(settings, default=128_257))
    layout = Tiled(
        tile, config.longest, vision.patch, config.image_tokens, pixels.do_image_splitting, transform, image_token
    )
    with torch.device("meta"):
        model = Idefics3(config, read_chat(folder, decoder.context, decoder.vocabulary, layout))
    return _idefics.take(model, folder, _table(decoder))


def save(model: Idefics3, folder: Path) -> None:
    """Writes the model for transformers, into a folder that exists; a SmolVLM too, as its first versions are stored.

    Raises CheckpointError where transformers has no such model.
    """
    layout, config = model.processor.layout, model.config
    usual = Tiled()
    if not isinstance(layout, Tiled) or (layout.around, layout.whole) != (usual.around, usual.whole):
        raise CheckpointError(f"transformers' Idefics3 writes tiles between marks of its own; this model has {layout}")
    if config.connector.bias:
        raise CheckpointError("transformers' Idefics3 has a connector without bias")
    side, patch = config.vision.side, config.vision.patch
    settings = {
        "architectures": ["Idefics3ForConditionalGeneration"],
        "model_type": "idefics3",
        "vision_config": {
            **_idefics.vision_section(config.vision, config.tile if config.tile // patch == side else side * patch),
            "model_type": "idefics3_vision",
        },
        "text_config": decoder_section(config.language),
        "scale_factor": config.connector.factor,
    }
    pixels = {
        **tiles_section(layout.transform, "Idefics3"),
        "size": {"longest_edge": layout.longest},
        "max_image_size": {"longest_edge": layout.tile},
        "do_image_splitting": layout.split,
    }
    around = {"processor_class": "Idefics3Processor", "image_seq_len": layout.image_tokens}
    _idefics.write(model, folder, settings, (pixels, around), _table(config.language))


def rules(model: Idefics3) -> tuple[Rule, ...]:
    """The names under which each tensor of this model is stored."""
    return _table(model.config.language)


def _table(decoder: DecoderConfig) -> tuple[Rule, ...]:
    return (*_idefics.table(decoder), Rule("connector.map.weight", "model.connector.modality_projection.proj.weight"))
