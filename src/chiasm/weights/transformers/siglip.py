"""SigLIP as transformers stores it (SiglipModel).

SigLIP was trained to see its padding. transformers hides it where it is given an attention mask; the tokenizers that
SigLIP ships with make none, and so does what is saved here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from chiasm.data.processor import PairProcessor
from chiasm.errors import CheckpointError
from chiasm.models.siglip import Config, SigLIP
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import read_section, write_json, write_tensors
from chiasm.weights.mapping import ONE_VALUE, STACKED, Rule, give_tensors, take_tensors
from chiasm.weights.texts import end_id, padded_to_context, read_tokenizer, write_tokenizer
from chiasm.weights.transformers._pixels import read_pixels, write_pixels
from chiasm.weights.transformers._towers import (
    POSITION_IDS,
    TOWERS,
    WEIGHTS,
    Text,
    Vision,
    text_section,
    vision_section,
)

MODEL = SigLIP

_POOL, _HEAD = "vision.pool", "vision_model.head"
TABLE = (
    *TOWERS,
    Rule(f"{_POOL}.query", f"{_HEAD}.probe"),
    *(
        Rule(
            (f"{_POOL}.attention.q.{kind}", f"{_POOL}.attention.k.{kind}", f"{_POOL}.attention.v.{kind}"),
            f"{_HEAD}.attention.in_proj_{kind}",
            STACKED,
        )
        for kind in ("weight", "bias")
    ),
    Rule(f"{_POOL}.attention.out.*", f"{_HEAD}.attention.out_proj.*"),
    Rule(f"{_POOL}.norm.*", f"{_HEAD}.layernorm.*"),
    Rule(f"{_POOL}.mlp.up.*", f"{_HEAD}.mlp.fc1.*"),
    Rule(f"{_POOL}.mlp.down.*", f"{_HEAD}.mlp.fc2.*"),
    Rule("text_head.*", "text_model.head.*"),
    Rule("log_scale", "logit_scale", ONE_VALUE),
    Rule("bias", "logit_bias", ONE_VALUE),
)

# What transformers takes where a config says nothing: B/16 at 224 pixels.
_VISION = Vision(768, 3072, 12, 12, "gelu_pytorch_tanh", 1e-6, image_size=224, patch_size=16)
TEXT = Text(768, 3072, 12, 12, "gelu_pytorch_tanh", 1e-6, vocab_size=32_000, max_position_embeddings=64)


def load(folder: CheckpointFolder) -> SigLIP:
    """The model in a folder, with its processor, in evaluation mode."""
    settings = folder.settings
    where = f"{folder / 'config.json'}"
    vision_entries, text_entries = sections(settings, where)
    vision = read_section(_VISION, vision_entries, f"{where}: vision_config")
    text = read_section(TEXT, text_entries, f"{where}: text_config")
    tokenizer = read_tokenizer(folder, text.max_position_embeddings, text.vocab_size)
    tokenizer = padded_to_context(tokenizer, text.max_position_embeddings, where)
    processor = PairProcessor(read_pixels(folder, vision.image_size), tokenizer)
    with torch.device("meta"):
        model = SigLIP(Config(vision.tower("map", pre_norm=False), text.tower(causal=False)), processor)
    state, file = folder.tensors(WEIGHTS)
    return take_tensors(model, TABLE, state, str(file), POSITION_IDS).eval()


def sections(settings: dict[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entries of either tower. Raises CheckpointError for a vision tower without its pooling."""
    vision, text = settings.get("vision_config") or {}, settings.get("text_config") or {}
    if not vision.get("vision_use_head", True):
        raise CheckpointError(f"{where}: vision_use_head is false; a SigLIP without its pooling gives no embedding")
    return vision, text


def write_text(model: SigLIP) -> dict[str, Any]:
    """The `text_config`, but for its model_type. Raises CheckpointError where transformers has no such text tower."""
    if not model.config.text_head:
        raise CheckpointError("transformers has no SigLIP without a text head; this model has none")
    tokenizer = model.processor.tokenizer
    special = {"eos_token_id": end_id(tokenizer), "pad_token_id": tokenizer.rules.pad_id}
    return {
        **text_section(model.config.text, causal=False),
        "projection_size": model.vision.width,
        "bos_token_id": tokenizer.backend.encode("").ids[0],
        **special,
    }


def save(model: SigLIP, folder: Path) -> None:
    """Writes the model for transformers, into a folder that exists.

    Raises CheckpointError where transformers has no such SigLIP: its vision tower is a ViT that pools by attention.
    """
    config, tokenizer = model.config, model.processor.tokenizer
    settings = {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "vision_config": vision_section(config.vision, "map", pre_norm=False)
        | {"model_type": "siglip_vision_model", "vision_use_head": True},
        "text_config": write_text(model) | {"model_type": "siglip_text_model"},
    }
    write_pixels(model.processor.image, "Siglip", folder)
    write_tokenizer(tokenizer, folder)
    write_json(folder / "config.json", settings)
    write_tensors(folder / "model.safetensors", give_tensors(model, TABLE))
