"""Kosmos-2 as transformers stores it (Kosmos2ForConditionalGeneration)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from chiasm.data.box_formats.kosmos import Kosmos
from chiasm.data.layouts.fixed import Fixed
from chiasm.errors import CheckpointError
from chiasm.models.kosmos2 import Config, Kosmos2
from chiasm.nn.connectors import latent_attention
from chiasm.nn.decoders import magneto
from chiasm.weights.chats import read_chat, write_chat, write_ends
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import read_json_if_present, read_section, write_json, write_tensors
from chiasm.weights.mapping import Rule, give_tensors, take_tensors
from chiasm.weights.transformers._pixels import read_pixels, write_pixels
from chiasm.weights.transformers._towers import ACTS, WEIGHTS, Act, Vision, act_name, clip_rules, vision_section

MODEL = Kosmos2


@dataclass(frozen=True)
class _Text:
    """A `text_config`, with transformers' defaults. Dropout is for training, and left out."""

    vocab_size: int = 65_037
    max_position_embeddings: int = 2_048
    embed_dim: int = 2_048
    layers: int = 24
    ffn_dim: int = 8_192
    attention_heads: int = 32
    activation_function: Act = "gelu"
    layer_norm_eps: float = 1e-5
    scale_embedding: bool = True
    pad_token_id: int = 1
    add_cross_attention: Literal[False] = False
    tie_word_embeddings: bool = True


# What transformers takes where a vision_config says nothing: CLIP ViT-L/14.
_VISION = Vision(1024, 4096, 24, 16, "quick_gelu", 1e-5, image_size=224, patch_size=14)
_OPEN, _CLOSE, _IMAGE_TOKEN = "<image>", "</image>", "<mask>"


def load(folder: CheckpointFolder) -> Kosmos2:
    """The model in a folder, with its processor, in evaluation mode."""
    settings = folder.settings
    config, decoder = read_config(settings, str(folder / "config.json"))
    pixels = read_pixels(folder, config.vision.image_size)
    layout = Fixed(config.image_tokens, pixels, _image_token(folder), _OPEN, f"{_CLOSE} ")
    processor = read_chat(folder, decoder.context, decoder.vocabulary, layout, Kosmos())
    _check_special_tokens(processor.backend.get_vocab(), str(folder))
    with torch.device("meta"):
        model = Kosmos2(config, processor)
    state, file = folder.tensors(WEIGHTS)
    tied = (_HEAD,) if decoder.tied else ()
    left_out = ("vision_model.model.embeddings.position_ids", "text_model.model.embed_positions.weights", *tied)
    return take_tensors(model, _table(decoder), state, str(file), left_out).eval()


def read_config(settings: Mapping[str, Any], where: str) -> tuple[Config, magneto.Config]:
    """The parts that a `config.json` describes, and the decoder among them."""
    text = read_section(_Text(), settings.get("text_config") or {}, f"{where}: text_config")
    vision = read_section(_VISION, settings.get("vision_config") or {}, f"{where}: vision_config")
    decoder = magneto.Config(
        text.vocab_size,
        text.embed_dim,
        text.layers,
        text.attention_heads,
        text.ffn_dim,
        text.max_position_embeddings,
        ACTS[text.activation_function],
        text.layer_norm_eps,
        text.pad_token_id + 1,
        text.scale_embedding,
        bool(settings.get("tie_word_embeddings", True)) or text.tie_word_embeddings,
    )
    latents = latent_attention.Config(int(settings.get("latent_query_num", 64)), text.attention_heads)
    return Config(vision.tower("class", pre_norm=True), decoder, latents), decoder


def save(model: Kosmos2, folder: Path) -> None:
    """Writes the model for transformers, into a folder that exists.

    Raises CheckpointError where transformers has no such Kosmos-2: its decoder is MAGNETO's, its pictures stand between
    marks, its grid is one of 32 by 32 cells.
    """
    config, processor, layout = model.config, model.processor, model.processor.layout
    decoder, connector = config.language, config.connector
    if not isinstance(decoder, magneto.Config) or not isinstance(connector, latent_attention.Config):
        raise CheckpointError(
            "transformers' Kosmos-2 has a MAGNETO decoder and one attention of latents; this model has "
            f"{decoder.chosen()} and {connector.chosen()}"
        )
    if connector.heads != decoder.heads:
        raise CheckpointError(
            f"transformers' Kosmos-2 has as many heads between its parts as in its decoder, {decoder.heads}; this "
            f"model has {connector.heads}"
        )
    if not isinstance(layout, Fixed) or (layout.before, layout.behind.strip()) != (_OPEN, _CLOSE):
        raise CheckpointError(f"transformers' Kosmos-2 has pictures between {_OPEN} and {_CLOSE}; this model: {layout}")
    if processor.settings.boxes != Kosmos():
        raise CheckpointError("transformers' Kosmos-2 writes boxes as `kosmos` does, on a grid of 32; this model won't")
    _check_special_tokens(processor.backend.get_vocab(), str(folder))
    text = _Text(
        decoder.vocabulary,
        decoder.context,
        decoder.width,
        decoder.layers,
        decoder.mlp_width,
        decoder.heads,
        act_name(decoder.act),
        decoder.epsilon,
        decoder.scaled,
        decoder.first - 1,
        tie_word_embeddings=decoder.tied,
    )
    vision = vision_section(config.vision, "class", pre_norm=True)
    write_pixels(layout.transform, "CLIP", folder)
    write_chat(processor, folder)
    tokenizer = read_json_if_present(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", {**tokenizer, "mask_token": layout.image_token})
    write_json(folder / "processor_config.json", {"processor_class": "Kosmos2Processor"})
    write_json(
        folder / "config.json",
        {
            "architectures": ["Kosmos2ForConditionalGeneration"],
            "model_type": "kosmos-2",
            "dtype": "float32",
            "latent_query_num": connector.latents,
            "tie_word_embeddings": decoder.tied,
            "text_config": {"model_type": "kosmos_2_text_model", **asdict(text)},
            "vision_config": {"model_type": "kosmos_2_vision_model", **vision},
        },
    )
    write_ends(processor, folder)
    write_tensors(folder / "model.safetensors", give_tensors(model, _table(decoder)))


def _image_token(folder: CheckpointFolder) -> str:
    """The image token: the tokenizer's mask token, which no text holds.

    In transformers it is any token, beside a mask of positions.
    """
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        token = folder.entries(name).get("mask_token")
        if token is not None:
            return str(token["content"] if isinstance(token, dict) else token)
    return _IMAGE_TOKEN


def _check_special_tokens(vocabulary: dict[str, int], where: str) -> None:
    if lost := [token for token in (_OPEN, _CLOSE, *Kosmos().marks) if token not in vocabulary]:
        raise CheckpointError(f"{where}: the tokenizer lacks {len(lost)} tokens of Kosmos-2, such as {lost[0]}")


_HEAD = "text_model.lm_head.weight"


def rules(model: Kosmos2) -> tuple[Rule, ...]:
    """The names under which each tensor of this model is stored."""
    assert isinstance(model.config.language, magneto.Config)
    return _table(model.config.language)


def _table(decoder: magneto.Config) -> tuple[Rule, ...]:
    """The table of a model with that decoder."""
    language, between = "text_model.model", "image_to_text_projection"
    block, layer = "language.blocks.*", f"{language}.layers.*"
    rules = [
        *clip_rules("vision_model.model"),
        Rule("connector.map.*", f"{between}.dense.*"),
        Rule("connector.latents", f"{between}.latent_query"),
        *(Rule(f"connector.attention.{part}.*", f"{between}.x_attn.{part}_proj.*") for part in _FOUR),
        Rule("language.embed.weight", f"{language}.embed_tokens.weight"),
        *(Rule(f"{block}.attention.{part}.*", f"{layer}.self_attn.{part}_proj.*") for part in _FOUR),
        Rule(f"{block}.attention.inner_norm.*", f"{layer}.self_attn.inner_attn_ln.*"),
        Rule(f"{block}.norm1.*", f"{layer}.self_attn_layer_norm.*"),
        Rule(f"{block}.mlp.up.*", f"{layer}.ffn.fc1.*"),
        Rule(f"{block}.mlp.norm.*", f"{layer}.ffn.ffn_layernorm.*"),
        Rule(f"{block}.mlp.down.*", f"{layer}.ffn.fc2.*"),
        Rule(f"{block}.norm2.*", f"{layer}.final_layer_norm.*"),
        Rule("language.norm.*", f"{language}.layer_norm.*"),
    ]
    if not decoder.tied:
        rules.append(Rule("language.head.weight", _HEAD))
    return tuple(rules)


_FOUR = ("q", "k", "v", "out")
