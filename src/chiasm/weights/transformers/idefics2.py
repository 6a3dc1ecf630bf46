"""Idefics2 as transformers stores it (Idefics2ForConditionalGeneration)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from chiasm.data.layouts.native import Native
from chiasm.errors import CheckpointError
from chiasm.models.idefics2 import Config, Idefics2
from chiasm.nn.connectors import perceiver
from chiasm.nn.decoder import DecoderConfig
from chiasm.nn.decoders import llama
from chiasm.weights.chats import image_token_id, read_chat, token_of
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import read_section
from chiasm.weights.mapping import Rule
from chiasm.weights.transformers import _idefics
from chiasm.weights.transformers._language import decoder_section
from chiasm.weights.transformers._tiles import Tiles, read_tiles, tiles_section
from chiasm.weights.transformers._towers import Vision

MODEL = Idefics2

# What transformers takes where a config says nothing.
_VISION = Vision(768, 3072, 12, 12, "gelu_pytorch_tanh", 1e-6, image_size=224, patch_size=32)
_TEXT = {"model_type": "mistral", "max_position_embeddings": 4096 * 8, "rms_norm_eps": 1e-5}


@dataclass(frozen=True)
class _Settings(Tiles):
    """A `preprocessor_config.json`."""

    resample: int = 2
    size: dict[str, int] = field(default_factory=lambda: {"shortest_edge": 378, "longest_edge": 980})
    do_image_splitting: bool = False


@dataclass(frozen=True)
class _Perceiver:
    """A `perceiver_config`."""

    hidden_size: int = 4096
    rms_norm_eps: float = 1e-6
    resampler_n_latents: int = 64
    resampler_depth: int = 3
    resampler_n_heads: int = 16
    resampler_head_dim: int = 96
    num_key_value_heads: int = 4
    hidden_act: Literal["silu"] = "silu"
    attention_dropout: Literal[0] = 0


def load(folder: CheckpointFolder) -> Idefics2:
    """The model in a folder, with its processor, in evaluation mode."""
    settings = folder.settings
    where = str(folder / "config.json")
    decoder = _idefics.read_text(settings, "mistral", _TEXT, where)
    vision = _idefics.read_vision(_VISION, settings, where)
    pixels, transform, file = read_tiles(_Settings(), folder)
    if pixels.size.keys() != {"shortest_edge", "longest_edge"}:
        raise CheckpointError(f"{file}: size is {pixels.size}; shortest_edge and longest_edge bound sides of pictures")
    sides = pixels.size["shortest_edge"], pixels.size["longest_edge"]
    config = Config(vision, decoder, _connector(settings, decoder, where), *sides)
    image_token = token_of(folder, image_token_id(settings, default=32_001))
    layout = Native(*sides, vision.patch, config.connector.latents, pixels.do_image_splitting, transform, image_token)
    with torch.device("meta"):
        model = Idefics2(config, read_chat(folder, decoder.context, decoder.vocabulary, layout))
    return _idefics.take(model, folder, _table(decoder))


def save(model: Idefics2, folder: Path) -> None:
    """Writes the model for transformers, into a folder that exists.

    Raises CheckpointError where transformers has no such model.
    """
    layout, config = model.processor.layout, model.config
    text = decoder_section(config.language)
    if not isinstance(layout, Native) or layout.around != Native().around:
        raise CheckpointError(
            f"transformers' Idefics2 writes pictures between marks of its own; this model has {layout}"
        )
    if config.connector.mlp_width != text["intermediate_size"]:
        raise CheckpointError("transformers' Idefics2 maps features by an MLP as wide as that of its language model")
    tower, between = config.vision, config.connector
    settings = {
        "architectures": ["Idefics2ForConditionalGeneration"],
        "model_type": "idefics2",
        "vision_config": {
            **_idefics.vision_section(tower, tower.side * tower.patch),
            "model_type": "idefics2_vision",
        },
        "text_config": text,
        "perceiver_config": {
            "model_type": "idefics2_perceiver",
            "hidden_size": text["hidden_size"],
            "rms_norm_eps": between.epsilon,
            "resampler_n_latents": between.latents,
            "resampler_depth": between.layers,
            "resampler_n_heads": between.heads,
            "resampler_head_dim": between.head_width,
            "num_key_value_heads": between.kv_heads,
            "hidden_act": "silu",
        },
    }
    pixels = {
        **tiles_section(layout.transform, "Idefics2"),
        "size": {"shortest_edge": layout.shortest, "longest_edge": layout.longest},
        "do_image_splitting": layout.split,
    }
    around = {"processor_class": "Idefics2Processor", "image_seq_len": layout.image_tokens}
    _idefics.write(model, folder, settings, (pixels, around), _table(config.language))


def _connector(settings: Mapping[str, Any], decoder: llama.Config, where: str) -> perceiver.Config:
    entries = settings.get("perceiver_config") or {}
    found = read_section(_Perceiver(), entries, f"{where}: perceiver_config")
    # The width is the language model's; transformers then takes its epsilon too.
    epsilon = found.rms_norm_eps if found.hidden_size == decoder.width else decoder.epsilon
    return perceiver.Config(
        decoder.mlp_width,
        found.resampler_n_latents,
        found.resampler_depth,
        found.resampler_n_heads,
        found.resampler_head_dim,
        found.num_key_value_heads,
        epsilon,
    )


def rules(model: Idefics2) -> tuple[Rule, ...]:
    """The names under which each tensor of this model is stored."""
    return _table(model.config.language)


def _table(decoder: DecoderConfig) -> tuple[Rule, ...]:
    theirs = "model.connector.perceiver_resampler"
    layer, own = f"{theirs}.layers.*", "connector.layers.*"
    gated = (("connector.map", "model.connector.modality_projection"), (f"{own}.mlp", f"{layer}.mlp"))
    return (
        *_idefics.table(decoder),
        *(Rule(f"{a}.{part}.weight", f"{b}.{part}_proj.weight") for a, b in gated for part in ("gate", "up", "down")),
        *(Rule(f"{own}.attention.{part}.weight", f"{layer}.self_attn.{part}_proj.weight") for part in ("q", "k", "v")),
        Rule(f"{own}.attention.out.weight", f"{layer}.self_attn.o_proj.weight"),
        Rule(f"{own}.norm1.weight", f"{layer}.input_latents_norm.weight"),
        Rule(f"{own}.context_norm.weight", f"{layer}.input_context_norm.weight"),
        Rule(f"{own}.norm2.weight", f"{layer}.post_attention_layernorm.weight"),
        Rule("connector.latents", f"{theirs}.latents"),
        Rule("connector.norm.weight", f"{theirs}.norm.weight"),
    )
