"""The parts that Idefics2, Idefics3 and SmolVLM share in transformers: SigLIP at any aspect ratio, and a decoder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from chiasm.models.generative import VisionLanguageModel
from chiasm.nn.decoder import DecoderConfig
from chiasm.nn.decoders import llama
from chiasm.nn.image_towers import native
from chiasm.weights.chats import write_chat, write_ends
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import read_section, write_json, write_tensors
from chiasm.weights.mapping import Form, Rule, give_tensors, take_tensors
from chiasm.weights.transformers._language import CONSTANTS, decoder_rules, read_decoder
from chiasm.weights.transformers._towers import ACTS, WEIGHTS, Vision, blocks, tower_rules

M = TypeVar("M", bound=VisionLanguageModel)


def _as_convolution(ours: Sequence[Tensor]) -> Tensor:
    (weight_DC,) = ours
    patch = math.isqrt(weight_DC.shape[1] // 3)
    return weight_DC.view(-1, patch, patch, 3).permute(0, 3, 1, 2)


def _as_matrix(theirs: Tensor, _: int) -> tuple[Tensor, ...]:
    return (theirs.permute(0, 2, 3, 1).flatten(1),)


# A map of patches, (D, p * p * 3), which is stored as a convolution, (D, 3, p, p).
CONVOLUTION = Form(_as_convolution, _as_matrix)


def read_vision(defaults: Vision, settings: Mapping[str, Any], where: str) -> native.Config:
    """The image tower that a `config.json` describes."""
    vision = read_section(defaults, settings.get("vision_config") or {}, f"{where}: vision_config")
    return native.Config(
        vision.patch_size,
        vision.hidden_size,
        vision.num_hidden_layers,
        vision.num_attention_heads,
        vision.intermediate_size,
        (vision.image_size // vision.patch_size) ** 2,
        ACTS[vision.hidden_act],
        vision.layer_norm_eps,
    )


def vision_section(tower: native.Config, image_size: int) -> dict[str, Any]:
    """The `vision_config` of a tower. image_size: of a picture that has just as many patches as there are positions."""
    return asdict(Vision(**blocks(tower), image_size=image_size, patch_size=tower.patch))


def read_text(settings: Mapping[str, Any], kind: str, defaults: Mapping[str, Any], where: str) -> llama.Config:
    """The decoder that a `config.json` describes. kind, defaults: of the language model where it says nothing."""
    text = settings.get("text_config") or defaults
    tied = bool(settings.get("tie_word_embeddings", False))
    return read_decoder(text.get("model_type", kind), {**text, "tie_word_embeddings": tied}, where)


def table(decoder: DecoderConfig) -> tuple[Rule, ...]:
    """The names under which the tensors of both towers are stored."""
    theirs = "model.vision_model"
    return (
        Rule("vision.embed.weight", f"{theirs}.embeddings.patch_embedding.weight", CONVOLUTION),
        Rule("vision.embed.bias", f"{theirs}.embeddings.patch_embedding.bias"),
        Rule("vision.position", f"{theirs}.embeddings.position_embedding.weight"),
        *tower_rules("vision", theirs),
        Rule("vision.norm.*", f"{theirs}.post_layernorm.*"),
        *decoder_rules("language.", "model.text_model.", decoder, "lm_head.weight"),
    )


def take(model: M, folder: CheckpointFolder, rules: tuple[Rule, ...]) -> M:
    """The model with the weights of a folder, in evaluation mode."""
    state, file = folder.tensors(WEIGHTS)
    head = ("lm_head.weight",) if model.language.head is None else ()
    return take_tensors(model, rules, state, str(file), (*CONSTANTS, *head)).eval()


def write(
    model: VisionLanguageModel,
    folder: Path,
    settings: Mapping[str, Any],
    processors: tuple[Mapping[str, Any], Mapping[str, Any]],
    rules: tuple[Rule, ...],
) -> None:
    """Writes tokenizer, settings and weights. processors: entries of the image processor and of the one around it."""
    layout = model.processor.layout
    assert layout is not None
    shared = {
        "dtype": "float32",
        "image_token_id": model.processor.backend.token_to_id(layout.image_token),
        "tie_word_embeddings": model.language.head is None,
    }
    write_chat(model.processor, folder)
    write_json(folder / "preprocessor_config.json", processors[0])
    write_json(folder / "processor_config.json", processors[1])
    write_json(folder / "config.json", {**settings, **shared})
    write_ends(model.processor, folder)
    write_tensors(folder / "model.safetensors", give_tensors(model, rules))
