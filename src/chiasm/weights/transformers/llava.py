"""LLaVA and LLaVA-1.5 as transformers stores them (LlavaForConditionalGeneration), with CLIP's vision tower."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from chiasm.data.box_formats.floats import Floats
from chiasm.data.layouts.fixed import Fixed
from chiasm.errors import CheckpointError
from chiasm.models.llava import Config, LLaVA
from chiasm.nn.connectors import mlp
from chiasm.nn.decoder import DecoderConfig
from chiasm.nn.decoders import llama
from chiasm.weights.chats import image_token_id, read_chat, token_of, write_chat, write_ends
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import read_section, write_json, write_tensors
from chiasm.weights.mapping import Rule, give_tensors, renamed, take_tensors
from chiasm.weights.transformers._language import CONSTANTS, decoder_rules, decoder_section, read_decoder
from chiasm.weights.transformers._pixels import read_pixels, write_pixels
from chiasm.weights.transformers._towers import ACTS, WEIGHTS, Vision, act_name, clip_rules, vision_section

MODEL = LLaVA
M = TypeVar("M", bound=LLaVA)

# What transformers takes where a vision_config says nothing: CLIP ViT-L/14 at 336 pixels.
_VISION = Vision(1024, 4096, 24, 16, "quick_gelu", 1e-5, image_size=336, patch_size=14)


def load(folder: CheckpointFolder) -> LLaVA:
    """The model in a folder, with its processor, in evaluation mode."""
    settings = folder.settings
    where = str(folder / "config.json")
    decoder = read_text(settings, where)
    config = read_config(settings, decoder, where)
    image_token = token_of(folder, image_token_id(settings, default=32_000))
    layout = Fixed(config.patches, read_pixels(folder, config.vision.grid()[0]), image_token)
    with torch.device("meta"):
        model = LLaVA(config, read_chat(folder, decoder.context, decoder.vocabulary, layout, Floats(digits=2)))
    return take(model, folder, table(decoder))


def save(model: LLaVA, folder: Path) -> None:
    """Writes the model for transformers, into a folder that exists.

    Raises CheckpointError where transformers has no such LLaVA: its connector is an MLP, its pictures all of one size.
    """
    layout = model.processor.layout
    if not isinstance(layout, Fixed) or layout.before or layout.behind:
        raise CheckpointError(
            f"transformers' LLaVA writes pictures of one size as image tokens alone; this model has {layout}"
        )
    settings = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_seq_length": model.config.patches,
        **config_section(model),
    }
    write_pixels(layout.transform, "CLIP", folder)
    write(model, folder, settings, table(model.config.language), "LlavaProcessor")


def read_text(settings: Mapping[str, Any], where: str) -> llama.Config:
    """The decoder that a `config.json` describes."""
    text = settings.get("text_config") or {}
    tied = bool(settings.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))
    return read_decoder(text.get("model_type", "llama"), {**text, "tie_word_embeddings": tied}, where)


def read_config(settings: Mapping[str, Any], decoder: llama.Config, where: str) -> Config:
    """The parts that LLaVA and LLaVA-NeXT share, as a `config.json` describes them."""
    entries = settings.get("vision_config") or {}
    if (kind := entries.get("model_type", "clip_vision_model")) != "clip_vision_model":
        raise CheckpointError(f"{where}: the vision tower is a '{kind}'; LLaVA is read with CLIP's")
    vision = read_section(_VISION, entries, f"{where}: vision_config").tower("class", pre_norm=True)
    return Config(
        vision,
        decoder,
        mlp.Config(ACTS[settings.get("projector_hidden_act", "gelu")], settings.get("multimodal_projector_bias", True)),
        _layer(settings.get("vision_feature_layer", -2), vision.layers, where),
        settings.get("vision_feature_select_strategy", "default") == "full",
    )


def config_section(model: LLaVA) -> dict[str, Any]:
    """The entries of `config.json` that LLaVA and LLaVA-NeXT share.

    Raises CheckpointError where the connector is not an MLP, the only one that they have there.
    """
    config, layout = model.config, model.processor.layout
    assert layout is not None
    if not isinstance(config.connector, mlp.Config):
        raise CheckpointError(
            f"transformers' LLaVA has an MLP between its parts; this model has {config.connector.chosen()}"
        )
    return {
        "dtype": "float32",
        "vision_config": vision_section(config.vision, "class", pre_norm=True) | {"model_type": "clip_vision_model"},
        "text_config": decoder_section(config.language),
        "projector_hidden_act": act_name(config.connector.act),
        "multimodal_projector_bias": config.connector.bias,
        "vision_feature_layer": config.layer,
        "vision_feature_select_strategy": "full" if config.class_token else "default",
        "image_token_index": model.processor.backend.token_to_id(layout.image_token),
        "tie_word_embeddings": model.language.head is None,
    }


def take(model: M, folder: CheckpointFolder, rules: tuple[Rule, ...]) -> M:
    """The model with the weights of a folder, in evaluation mode."""
    state, file = folder.tensors(WEIGHTS)
    tied = model.language.head is None
    left_out = (*CONSTANTS, "vision_tower.embeddings.position_ids", *(_HEAD if tied else ()))
    return take_tensors(model, rules, renamed(state, _VARIANTS), str(file), left_out).eval()


def write(model: LLaVA, folder: Path, settings: dict[str, Any], rules: tuple[Rule, ...], processor: str) -> None:
    """Writes tokenizer, settings and weights. processor: transformers' class for the former."""
    layout = model.processor.layout
    assert layout is not None
    write_chat(model.processor, folder)
    write_json(
        folder / "processor_config.json",
        {
            "processor_class": processor,
            "image_token": layout.image_token,
            "patch_size": settings["vision_config"]["patch_size"],
            "vision_feature_select_strategy": settings["vision_feature_select_strategy"],
            "num_additional_image_tokens": 1,
        },
    )
    write_json(folder / "config.json", settings)
    write_ends(model.processor, folder)
    write_tensors(folder / "model.safetensors", give_tensors(model, rules))


_HEAD = ("language_model.lm_head.weight",)

# How versions of transformers have named the parts; the last is what version 5 writes.
_VARIANTS = {
    "vision_tower.vision_model.": "vision_tower.",
    "model.vision_tower.vision_model.": "vision_tower.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.image_newline": "image_newline",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}


# What the modules are called in memory, where the names of the files are older.
MODULES = {
    "vision_tower.": "model.vision_tower.",
    "multi_modal_projector.": "model.multi_modal_projector.",
    "language_model.model.": "model.language_model.",
    "language_model.lm_head": "lm_head",
}


def rules(model: LLaVA) -> tuple[Rule, ...]:
    """The names under which each tensor of this model is stored."""
    return table(model.config.language)


def table(decoder: DecoderConfig) -> tuple[Rule, ...]:
    """The names under which each tensor is stored."""
    return (
        *clip_rules("vision_tower"),
        Rule("connector.up.*", "multi_modal_projector.linear_1.*"),
        Rule("connector.down.*", "multi_modal_projector.linear_2.*"),
        *decoder_rules("language.", "language_model.model.", decoder, *_HEAD),
    )


def _layer(layer: Any, layers: int, where: str) -> int:
    """The layer whose features are read, counted from the end, as ours is.

    In transformers 0 is the input of the first block, and -1 the output of the last.
    """
    if not isinstance(layer, int):
        raise CheckpointError(f"{where}: vision_feature_layer is {layer!r}; one layer is read, not several")
    return layer if layer < 0 else layer - layers - 1
