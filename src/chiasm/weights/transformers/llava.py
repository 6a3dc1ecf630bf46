"""LLaVA and LLaVA-1.5 as transformers stores them (LlavaForConditionalGeneration), with CLIP's vision tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from chiasm.data.layouts.fixed import Fixed
from chiasm.errors import CheckpointError
from chiasm.models.llava import Config, LLaVA
from chiasm.nn.connectors import mlp
from chiasm.nn.decoder import DecoderConfig
from chiasm.weights.chats import read_chat, slot_id, token_of, write_chat, write_ends
from chiasm.weights.files import read_section, read_tensors, write_json, write_tensors
from chiasm.weights.mapping import Rule, give_tensors, renamed, take_tensors
from chiasm.weights.transformers._language import CONSTANTS, decoder_rules, decoder_section, read_decoder
from chiasm.weights.transformers._pixels import read_pixels, write_pixels
from chiasm.weights.transformers._towers import ACTS, WEIGHTS, Vision, tower_rules, vision_section

MODEL = LLaVA

# What transformers takes where a vision_config says nothing: CLIP ViT-L/14 at 336 pixels.
_VISION = Vision(1024, 4096, 24, 16, "quick_gelu", 1e-5, image_size=336, patch_size=14)


def load(folder: Path, settings: dict[str, Any]) -> LLaVA:
    """The model in a folder with that `config.json`, with its processor, in evaluation mode."""
    where = str(folder / "config.json")
    entries = settings.get("vision_config") or {}
    if (kind := entries.get("model_type", "clip_vision_model")) != "clip_vision_model":
        raise CheckpointError(f"{where}: the vision tower is a '{kind}'; LLaVA is read with CLIP's")
    vision = read_section(_VISION, entries, f"{where}: vision_config").tower("class", pre_norm=True)
    text = settings.get("text_config") or {}
    tied = bool(settings.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))
    decoder = read_decoder(text.get("model_type", "llama"), {**text, "tie_word_embeddings": tied}, where)
    config = Config(
        vision,
        decoder,
        mlp.Config(ACTS[settings.get("projector_hidden_act", "gelu")], settings.get("multimodal_projector_bias", True)),
        _layer(settings.get("vision_feature_layer", -2), vision.layers, where),
        settings.get("vision_feature_select_strategy", "default") == "full",
    )
    layout = Fixed(
        config.patches, read_pixels(folder, vision.image_size), token_of(folder, slot_id(settings, default=32_000))
    )
    with torch.device("meta"):
        model = LLaVA(config, read_chat(folder, decoder.context, decoder.vocabulary, layout))
    state, file = read_tensors(folder, WEIGHTS)
    left_out = (*CONSTANTS, "vision_tower.embeddings.position_ids", *(_HEAD if decoder.tied else ()))
    return take_tensors(model, _table(decoder), renamed(state, _VARIANTS), str(file), left_out).eval()


def save(model: LLaVA, folder: Path) -> None:
    """Writes the model for transformers, into a folder that exists.

    Raises CheckpointError where transformers has no such LLaVA: its connector is an MLP, its pictures all of one size.
    """
    config, layout = model.config, model.processor.layout
    if not isinstance(config.connector, mlp.Config) or not isinstance(layout, Fixed) or layout.before or layout.behind:
        raise CheckpointError(
            "transformers' LLaVA has an MLP between its parts and writes pictures as slots alone; this model has "
            f"{config.connector} and {layout}"
        )
    slot = model.processor.backend.token_to_id(layout.slot)
    settings = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "dtype": "float32",
        "vision_config": vision_section(config.vision, "class", pre_norm=True) | {"model_type": "clip_vision_model"},
        "text_config": decoder_section(config.language),
        "projector_hidden_act": next(theirs for theirs, ours in ACTS.items() if ours == config.connector.act),
        "multimodal_projector_bias": config.connector.bias,
        "vision_feature_layer": config.layer,
        "vision_feature_select_strategy": "full" if config.class_token else "default",
        "image_token_index": slot,
        "image_seq_length": config.patches,
        "tie_word_embeddings": model.language.head is None,
    }
    write_chat(model.processor, folder)
    write_pixels(layout.transform, "CLIP", folder)
    write_json(
        folder / "processor_config.json",
        {
            "processor_class": "LlavaProcessor",
            "image_token": layout.slot,
            "patch_size": config.vision.patch,
            "vision_feature_select_strategy": settings["vision_feature_select_strategy"],
            "num_additional_image_tokens": 1,
        },
    )
    write_json(folder / "config.json", settings)
    write_ends(model.processor, folder)
    write_tensors(folder / "model.safetensors", give_tensors(model, _table(config.language)))


_HEAD = ("language_model.lm_head.weight",)

# How versions of transformers have named the parts; the last is what version 5 writes.
_VARIANTS = {
    "vision_tower.vision_model.": "vision_tower.",
    "model.vision_tower.vision_model.": "vision_tower.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}


def _table(decoder: DecoderConfig) -> tuple[Rule, ...]:
    return (
        Rule("vision.embed.*", "vision_tower.embeddings.patch_embedding.*"),
        Rule("vision.class_token", "vision_tower.embeddings.class_embedding"),
        Rule("vision.position", "vision_tower.embeddings.position_embedding.weight"),
        Rule("vision.pre_norm.*", "vision_tower.pre_layrnorm.*"),  # sic
        *tower_rules("vision", "vision_tower"),
        Rule("vision.norm.*", "vision_tower.post_layernorm.*"),
        Rule("connector.up.*", "multi_modal_projector.linear_1.*"),
        Rule("connector.down.*", "multi_modal_projector.linear_2.*"),
        *decoder_rules("language.", "language_model.model.", decoder, *_HEAD),
    )


def _layer(layer: Any, layers: int, where: str) -> int:
    """Counted from the end, as ours is. In transformers 0 is what enters the first block, and -1 leaves the last."""
    if not isinstance(layer, int):
        raise CheckpointError(f"{where}: vision_feature_layer is {layer!r}; one layer is read, not several")
    return layer if layer < 0 else layer - layers - 1
