"""Qwen2-VL as transformers stores it (Qwen2VLForConditionalGeneration)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from chiasm.data.box_formats.qwen2_vl import Qwen2VL as Boxes
from chiasm.data.layouts.packed import PackedPatches
from chiasm.errors import CheckpointError
from chiasm.models.qwen2_vl import Config, Qwen2VL
from chiasm.nn import packed_vit
from chiasm.nn.decoders import llama
from chiasm.weights.chats import read_chat, token_of, write_chat, write_ends
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import read_section, write_json, write_tensors
from chiasm.weights.mapping import STACKED, Form, Rule, give_tensors, renamed, take_tensors
from chiasm.weights.transformers._language import CONSTANTS, decoder_rules, decoder_section, read_decoder
from chiasm.weights.transformers._packed import read_packed, write_packed
from chiasm.weights.transformers._towers import ACTS, WEIGHTS, Act, act_name

MODEL = Qwen2VL


@dataclass(frozen=True)
class _Vision:
    """A `vision_config`, with transformers' defaults. hidden_size: the decoder's width."""

    depth: int = 32
    embed_dim: int = 1280
    hidden_size: int = 3584
    hidden_act: Act = "quick_gelu"
    mlp_ratio: int = 4
    num_heads: int = 16
    in_channels: Literal[3] = 3
    patch_size: int = 14
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2


# What transformers takes where a text_config says nothing.
_TEXT: Mapping[str, Any] = {
    "vocab_size": 152_064,
    "hidden_size": 8192,
    "intermediate_size": 29_568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "max_window_layers": 80,
}
# Entries of the layout, where a config names the tokens, and the ids of the published models.
_TOKENS = {
    "token": ("image_token_id", 151_655),
    "video_token": ("video_token_id", 151_656),
    "before": ("vision_start_token_id", 151_652),
    "behind": ("vision_end_token_id", 151_653),
}
_EPSILON, _THETA = 1e-6, 10_000.0  # of the tower, which no published config names


def load(folder: CheckpointFolder) -> Qwen2VL:
    """The model in a folder, with its processor, in evaluation mode.

    Before version 5 the settings of the language model stood beside those of the whole.
    """
    settings = folder.settings
    where = str(folder / "config.json")
    vision = read_section(_Vision(), settings.get("vision_config") or {}, f"{where}: vision_config")
    text = settings.get("text_config") or settings
    tied = bool(settings.get("tie_word_embeddings") or text.get("tie_word_embeddings", False))
    decoder = _decoder({**_TEXT, **text, "tie_word_embeddings": tied}, where)
    if vision.hidden_size != decoder.width:
        raise CheckpointError(
            f"{where}: the tower makes {vision.hidden_size} values, the decoder reads {decoder.width}"
        )
    config = Config(
        packed_vit.Config(
            vision.patch_size,
            vision.embed_dim,
            vision.depth,
            vision.num_heads,
            vision.embed_dim * vision.mlp_ratio,
            vision.temporal_patch_size,
            vision.spatial_merge_size,
            ACTS[vision.hidden_act],
            _EPSILON,
            _theta(settings.get("vision_config") or {}, where),
        ),
        decoder,
    )
    tokens = {name: token_of(folder, settings.get(key, default)) for name, (key, default) in _TOKENS.items()}
    layout = read_packed(folder, vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size, tokens)
    with torch.device("meta"):
        model = Qwen2VL(config, read_chat(folder, decoder.context, decoder.vocabulary, layout, Boxes()))
    state, file = folder.tensors(WEIGHTS)
    left_out = (*CONSTANTS, *(("lm_head.weight",) if decoder.tied else ()))
    return take_tensors(model, _table(config), renamed(state, _VARIANTS), str(file), left_out).eval()


def save(model: Qwen2VL, folder: Path) -> None:
    """Writes the model for transformers, into a folder that exists.

    Raises CheckpointError where transformers has no such Qwen2-VL.
    """
    config, layout, tower = model.config, model.processor.layout, model.config.vision
    if not isinstance(layout, PackedPatches) or not layout.before or not layout.behind:
        raise CheckpointError(f"transformers' Qwen2-VL reads packed patches between two marks; this model has {layout}")
    if tower.mlp_width % tower.width or tower.epsilon != _EPSILON:
        raise CheckpointError(
            "transformers' Qwen2-VL has a tower whose MLP is a multiple of its width, with norms of epsilon "
            f"{_EPSILON}; this model has {tower}"
        )
    vision = _Vision(
        tower.layers,
        tower.width,
        model.language.width,
        act_name(tower.act),
        tower.mlp_width // tower.width,
        tower.heads,
        3,
        tower.patch,
        tower.merge,
        tower.time,
    )
    rotary = {"rope_parameters": {"rope_type": "axial", "rope_theta": tower.theta}}
    ids = {key: model.processor.backend.token_to_id(getattr(layout, name)) for name, (key, _) in _TOKENS.items()}
    write_chat(model.processor, folder)
    write_packed(layout, folder)
    write_json(
        folder / "config.json",
        {
            "architectures": ["Qwen2VLForConditionalGeneration"],
            "model_type": "qwen2_vl",
            "dtype": "float32",
            "vision_config": {"model_type": "qwen2_vl_vision", **asdict(vision), **rotary},
            "text_config": _section(model),
            **ids,
            "tie_word_embeddings": model.language.head is None,
        },
    )
    write_ends(model.processor, folder)
    write_tensors(folder / "model.safetensors", give_tensors(model, _table(config)))


# How versions of transformers have named the parts; the short names are those of published checkpoints.
_VARIANTS = {"model.visual.": "visual.", "model.language_model.": "model."}


# What the modules are called in memory, where the names of the files are older.
MODULES = {
    "visual.": "model.visual.",
    "model.": "model.language_model.",
}


def rules(model: Qwen2VL) -> tuple[Rule, ...]:
    """The names under which each tensor of this model is stored."""
    return _table(model.config)


def _table(config: Config) -> tuple[Rule, ...]:
    block, theirs, tower = "vision.blocks.*", "visual.blocks.*", config.vision
    shape = (-1, 3, tower.time, tower.patch, tower.patch)
    windows = Form(lambda ours: ours[0].reshape(shape), lambda theirs, _: (theirs.flatten(1),))
    stacked = tuple(f"{block}.attention.{part}." for part in "qkv")
    return (
        Rule("vision.embed.weight", "visual.patch_embed.proj.weight", windows),
        Rule(f"{block}.norm1.*", f"{theirs}.norm1.*"),
        Rule(tuple(part + "weight" for part in stacked), f"{theirs}.attn.qkv.weight", STACKED),
        Rule(tuple(part + "bias" for part in stacked), f"{theirs}.attn.qkv.bias", STACKED),
        Rule(f"{block}.attention.out.*", f"{theirs}.attn.proj.*"),
        Rule(f"{block}.norm2.*", f"{theirs}.norm2.*"),
        Rule(f"{block}.mlp.up.*", f"{theirs}.mlp.fc1.*"),
        Rule(f"{block}.mlp.down.*", f"{theirs}.mlp.fc2.*"),
        Rule("connector.norm.*", "visual.merger.ln_q.*"),
        Rule("connector.up.*", "visual.merger.mlp.0.*"),
        Rule("connector.down.*", "visual.merger.mlp.2.*"),
        *decoder_rules("language.", "model.", config.language, "lm_head.weight"),
    )


def _decoder(text: Mapping[str, Any], where: str) -> llama.Config:
    """The decoder: Qwen2's with three sections, by default those of the published models."""
    parameters = {
        "mrope_section": [16, 24, 24],
        **(text.get("rope_scaling") or {}),
        **(text.get("rope_parameters") or {}),
    }
    return read_decoder("qwen2", {**text, "rope_parameters": parameters}, where)


def _section(model: Qwen2VL) -> dict[str, Any]:
    section = decoder_section(model.config.language)
    parameters = section["rope_parameters"]
    whole = section["head_dim"] * section["num_attention_heads"] == section["hidden_size"]
    if section["model_type"] != "qwen2" or "mrope_section" not in parameters or not whole:
        raise CheckpointError(
            "transformers' Qwen2-VL has the decoder of Qwen2 with rotary positions in three sections; this model has "
            f"{model.config.language}"
        )
    older = {"rope_scaling": {"type": "mrope", "mrope_section": parameters["mrope_section"]}}  # before version 5
    del section["head_dim"]
    return {**section, **older, "model_type": "qwen2_vl_text"}


def _theta(vision: Mapping[str, Any], where: str) -> float:
    """The base of the tower's rotary frequencies, which newer files name."""
    given = vision.get("rope_parameters") or {}
    if (kind := given.get("rope_type", "axial")) != "axial":
        raise CheckpointError(f"{where}: the tower's rotary positions are of the type '{kind}'; 'axial' is known")
    return float(given.get("rope_theta", _THETA))
