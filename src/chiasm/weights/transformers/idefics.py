"""Idefics, the open Flamingo, as transformers stores it (IdeficsForVisionText2Text)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.layouts.marked import Marked
from chiasm.data.transforms import OPENAI_MEAN, OPENAI_STD
from chiasm.errors import CheckpointError
from chiasm.models.flamingo import Config, Flamingo
from chiasm.nn import cross
from chiasm.nn.connectors import resampler
from chiasm.nn.decoders import llama
from chiasm.weights.chats import read_chat, write_chat, write_ends
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import read_section, write_json, write_tensors
from chiasm.weights.mapping import AS_IS, Form, Rule, give_tensors, take_tensors
from chiasm.weights.transformers._language import CONSTANTS, decoder_rules, decoder_section, read_decoder
from chiasm.weights.transformers._pixels import pixels_of, read_entries, write_pixels
from chiasm.weights.transformers._towers import WEIGHTS, Vision, clip_rules, vision_section

MODEL = Flamingo

_IMAGE, _AROUND, _END = "<image>", "<fake_token_around_image>", "<end_of_utterance>"  # written by their processor
# How the published chat models are asked (their model cards); the files of the first ones lack it.
_CHAT = (
    "{% for message in messages %}{{ message['role'].capitalize() }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}{{ '<image>' }}"
    "{% endif %}{% endfor %}{{ '<end_of_utterance>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
# Constants that older versions stored with the weights.
_CONSTANTS = (
    *CONSTANTS,
    "model.vision_model.embeddings.position_ids",
    "model.gated_cross_attn_layers.*.cross_attn.rotary_emb.inv_freq",
)
_ONE_OF_EACH = Form(lambda ours: ours[0].view(1, 1, -1), lambda theirs, _: (theirs.flatten(),))


# What transformers takes where a vision_config says nothing.
_VISION = Vision(768, 5120, 32, 16, "gelu", 1e-5, image_size=224, patch_size=14)


@dataclass(frozen=True)
class _Resampler:
    """A `perceiver_config`."""

    resampler_n_latents: int = 64
    resampler_depth: int = 6
    resampler_n_heads: int = 16
    resampler_head_dim: int = 96
    qk_layer_norms_perceiver: bool = False


@dataclass(frozen=True)
class _Settings:
    """The settings of a `config.json` beside those of its parts."""

    additional_vocab_size: int = 0
    cross_layer_interval: int = 1
    qk_layer_norms: bool = False
    alpha_type: Literal["float", "vector"] = "float"
    use_resampler: bool = False
    dropout: Literal[0] = 0


def load(folder: CheckpointFolder) -> Flamingo:
    """The model in a folder, with its processor, in evaluation mode."""
    settings = folder.settings
    where = str(folder / "config.json")
    config = read_config(settings, where)
    with torch.device("meta"):
        model = Flamingo(config, _processor(folder, config))
    state, file = folder.tensors(WEIGHTS)
    head = ("lm_head.weight", "lm_head.additional_fc.weight") if model.language.head is None else ()
    return take_tensors(model, _table(config), _whole(state), str(file), (*_CONSTANTS, *head)).eval()


def save(model: Flamingo, folder: Path) -> None:
    """Writes the model for transformers, into a folder that exists. All of its words stand in one vocabulary there.

    Raises CheckpointError where transformers has no such model.
    """
    layout, config = model.processor.layout, model.config
    if not isinstance(layout, Marked) or (layout.token, layout.around) != (_IMAGE, _AROUND):
        raise CheckpointError(f"transformers' Idefics writes a picture as {_AROUND}{_IMAGE}{_AROUND}, not by {layout}")
    settings = config_section(config)
    write_pixels(layout.transform, "Idefics", folder)
    write_chat(model.processor, folder)
    write_json(folder / "processor_config.json", {"processor_class": "IdeficsProcessor"})
    write_json(folder / "config.json", {**settings, "eos_token_id": model.processor.end_ids[0]})
    write_ends(model.processor, folder)
    write_tensors(folder / "model.safetensors", give_tensors(model, _table(config)))


def read_config(settings: Mapping[str, Any], where: str) -> Config:
    """The parts that a `config.json` describes."""
    top = read_section(_Settings(), settings, where)
    if not top.use_resampler:
        raise CheckpointError(f"{where}: use_resampler is false; Idefics is read with a resampler, as it was published")
    decoder = read_decoder("llama", settings, where)
    decoder = replace(decoder, vocabulary=decoder.vocabulary + top.additional_vocab_size)
    if decoder.layers % top.cross_layer_interval:
        raise CheckpointError(f"{where}: {decoder.layers} layers cannot be parted by {top.cross_layer_interval}")
    vision = settings.get("vision_config") or {}
    if "embed_dim" in vision:  # its own name of the width
        vision = {**vision, "hidden_size": vision["embed_dim"]}
    seen = read_section(_VISION, vision, f"{where}: vision_config")
    between = read_section(_Resampler(), settings.get("perceiver_config") or {}, f"{where}: perceiver_config")
    return Config(
        seen.tower("class", pre_norm=True),
        decoder,
        cross.Config(
            heads=decoder.heads,
            mlp_width=decoder.mlp_width,
            every=top.cross_layer_interval,
            qk_norm=top.qk_layer_norms,
            epsilon=decoder.epsilon,
            gates="one" if top.alpha_type == "float" else "each",
        ),
        resampler.Config(
            between.resampler_n_latents,
            between.resampler_depth,
            between.resampler_n_heads,
            between.resampler_head_dim,
            between.qk_layer_norms_perceiver,
        ),
    )


def config_section(config: Config) -> dict[str, Any]:
    """The `config.json` of a model. Raises CheckpointError where transformers has none."""
    text, tower, look, between = decoder_section(config.language), config.vision, config.cross, config.connector
    decoder = config.language
    assert isinstance(decoder, llama.Config)
    alike = llama.Config(
        decoder.vocabulary,
        decoder.width,
        decoder.layers,
        decoder.heads,
        decoder.heads,
        decoder.mlp_width,
        decoder.context,
        theta=decoder.theta,
        scaling=decoder.scaling,
        epsilon=decoder.epsilon,
        tied=decoder.tied,
    )
    if replace(decoder, head_width=None) != alike or text["head_dim"] * decoder.heads != decoder.width:
        raise CheckpointError(f"transformers' Idefics has a Llama without shared heads, not {decoder}")
    known = cross.Config(
        decoder.heads, decoder.mlp_width, look.every, None, None, look.qk_norm, decoder.epsilon, look.gates, look.gate
    )
    if look != known or decoder.layers % look.every or not isinstance(between, resampler.Config):
        raise CheckpointError(
            f"transformers' Idefics looks through blocks of the shape of its Llama's, at what a resampler made, not "
            f"{look} at that of {between}"
        )
    vision = vision_section(tower, "class", pre_norm=True)
    width = vision.pop("hidden_size")
    return {
        **{key: value for key, value in text.items() if key not in ("num_key_value_heads", "head_dim")},
        "architectures": ["IdeficsForVisionText2Text"],
        "model_type": "idefics",
        "dtype": "float32",
        "additional_vocab_size": 0,
        "cross_layer_interval": look.every,
        "qk_layer_norms": look.qk_norm,
        "alpha_type": "float" if look.gates == "one" else "vector",
        "use_resampler": True,
        "vision_config": {"model_type": "idefics_vision", "embed_dim": width, **vision},
        "perceiver_config": {
            "model_type": "idefics_perciever",  # sic
            "use_resampler": True,
            "resampler_n_latents": between.latents,
            "resampler_depth": between.layers,
            "resampler_n_heads": between.heads,
            "resampler_head_dim": between.head_width,
            "qk_layer_norms_perceiver": between.qk_norm,
        },
    }


def _processor(folder: CheckpointFolder, config: Config) -> ChatProcessor:
    entries, file = read_entries(folder)
    size = entries.get("image_size") or entries.get("size", 224)
    square = {"height": size, "width": size} if isinstance(size, int) else size
    # The published files say only what differs from Idefics' own: all sides of a picture are scaled to one.
    own = {"resample": 3, "image_mean": OPENAI_MEAN, "image_std": OPENAI_STD}
    transform = pixels_of({**own, **entries, "size": square}, file, config.vision.image_size)
    decoder = config.language
    assert isinstance(decoder, llama.Config)
    read = read_chat(folder, decoder.context, decoder.vocabulary)
    start = read.settings.marks.get("bos_token")
    if start is None:
        raise CheckpointError(f"the tokenizer in {folder} has no bos_token, with which every sample of Idefics begins")
    ends, template = read.settings.ends, read.template.source
    if read.backend.token_to_id(_END) is not None:
        ends, template = (*ends, *(() if _END in ends else (_END,))), template or _CHAT
    if "bos_token" in template or start in template:  # it is written already
        start = ""
    layout = Marked(transform, _IMAGE, _AROUND, until=ends[0])
    return ChatProcessor(read.backend, replace(read.settings, layout=layout, start=start, ends=ends), template)


def _whole(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The embeddings of words and of added tokens in one table, as ours are."""
    found = dict(state)
    added = {"model.embed_tokens": "additional_embedding", "lm_head": "additional_fc"}
    for name, more in added.items():
        extra = found.pop(f"{name}.{more}.weight", None)
        if extra is not None and f"{name}.weight" in found:
            found[f"{name}.weight"] = torch.cat([found[f"{name}.weight"], extra])
    return found


def rules(model: Flamingo) -> tuple[Rule, ...]:
    """The names under which each tensor of this model is stored."""
    return _table(model.config)


def _table(config: Config) -> tuple[Rule, ...]:
    look, layer, between = "model.gated_cross_attn_layers.*", "connector.layers.*", "model.perceiver_resampler"
    gate = AS_IS if config.cross.gates == "one" else _ONE_OF_EACH
    table = [
        *clip_rules("model.vision_model"),
        Rule("connector.latents", f"{between}.latents"),
        Rule("connector.norm.*", f"{between}.layer_norm.*"),
        Rule(f"{layer}.norm1.*", f"{between}.blocks.*.0.latents_layer_norm.*"),
        Rule(f"{layer}.context_norm.*", f"{between}.blocks.*.0.context_layer_norm.*"),
        Rule(f"{layer}.norm2.*", f"{between}.blocks.*.1.ln.*"),
        *(
            Rule(f"{layer}.attention.{part}.weight", f"{between}.blocks.*.0.{part}_proj.weight")
            for part in ("q", "k", "v")
        ),
        Rule(f"{layer}.attention.out.weight", f"{between}.blocks.*.0.output_proj.weight"),
        Rule(f"{layer}.mlp.up.weight", f"{between}.blocks.*.1.fc.weight"),
        Rule(f"{layer}.mlp.down.weight", f"{between}.blocks.*.1.c_proj.weight"),
        *(Rule(f"{layer}.attention.{part}_norm.*", f"{between}.blocks.*.0.{part}_layer_norm.*") for part in ("q", "k")),
        Rule("language.look.*.norm1.weight", f"{look}.input_layernorm.weight"),
        Rule("language.look.*.norm2.weight", f"{look}.post_attention_layernorm.weight"),
        *(
            Rule(f"language.look.*.attention.{part}.weight", f"{look}.cross_attn.{part}_proj.weight")
            for part in ("q", "k", "v")
        ),
        Rule("language.look.*.attention.out.weight", f"{look}.cross_attn.o_proj.weight"),
        *(
            Rule(f"language.look.*.attention.{part}_norm.weight", f"{look}.cross_attn.{part}_layer_norm.weight")
            for part in ("q", "k")
        ),
        *(
            Rule(f"language.look.*.mlp.{part}.weight", f"{look}.mlp.{part}_proj.weight")
            for part in ("gate", "up", "down")
        ),
        Rule("language.look.*.gate1", f"{look}.alpha_cross_attn", gate),
        Rule("language.look.*.gate2", f"{look}.alpha_dense", gate),
    ]
    return (*table, *decoder_rules("language.", "model.", config.language, "lm_head.weight"))
