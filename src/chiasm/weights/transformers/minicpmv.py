"""MiniCPM-V 2.5 and 2.6 as their authors store them (openbmb/MiniCPM-Llama3-V-2_5, openbmb/MiniCPM-V-2_6).

transformers has no class of theirs: the folders bring a program of their own, which is never run here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.layouts.slices import Slices
from chiasm.errors import CheckpointError
from chiasm.models.minicpm_v import Config, MiniCPMV
from chiasm.nn.connectors import cross_attention
from chiasm.weights.chats import read_chat, write_chat, write_ends
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import read_section, write_json, write_tensors
from chiasm.weights.mapping import Rule, give_tensors, take_tensors
from chiasm.weights.transformers import _idefics
from chiasm.weights.transformers._language import decoder_rules, decoder_section, read_decoder
from chiasm.weights.transformers._resampler import HEAD, resampler_rules
from chiasm.weights.transformers._towers import WEIGHTS, Vision, tower_rules

MODEL = MiniCPMV

_VISION = Vision(768, 3072, 12, 12, "gelu_pytorch_tanh", 1e-6, image_size=224, patch_size=16)
# By version: the language model, and the token that ends its turns, which the program adds to those of the files.
_VERSIONS = {"2.5": ("llama", "<|eot_id|>"), "2.6": ("qwen2", "<|im_end|>")}


@dataclass(frozen=True)
class _Settings:
    """The settings of a `config.json` beside those of the language model. version: 2.5 where none is given."""

    version: float | str = 2.5
    query_num: int = 64
    drop_vision_last_layer: bool = False
    slice_mode: Literal[True] = True


@dataclass(frozen=True)
class _Pixels:
    """A `preprocessor_config.json`, with the layout's own defaults."""

    max_slice_nums: int = Slices.most
    scale_resolution: int = Slices.size
    patch_size: int = Slices.patch
    slice_mode: Literal[True] = True
    norm_mean: tuple[float, float, float] = Slices.mean
    norm_std: tuple[float, float, float] = Slices.std
    im_start: str = Slices.before
    im_end: str = Slices.behind
    slice_start: str = Slices.slice_before
    slice_end: str = Slices.slice_behind
    unk: str = Slices.token
    im_id_start: str = "<image_id>"
    im_id_end: str = "</image_id>"
    use_image_id: bool = True


def load(folder: CheckpointFolder) -> MiniCPMV:
    """The model in a folder, with its processor, in evaluation mode."""
    settings = folder.settings
    where = str(folder / "config.json")
    known = read_section(_Settings(), settings, where)
    version = str(known.version)
    if version not in _VERSIONS:
        raise CheckpointError(f"{where}: version {version} of MiniCPM-V cannot be read; {', '.join(_VERSIONS)} can")
    kind, end = _VERSIONS[version]
    decoder = read_decoder(kind, settings, where)
    vision = _idefics.read_vision(_VISION, settings, where)
    if known.drop_vision_last_layer:
        vision = replace(vision, layers=vision.layers - 1)
    file = folder / "preprocessor_config.json"
    entries = folder.entries(file.name) or settings.get("slice_config") or {}
    pixels = read_section(_Pixels(), entries, str(file))
    if pixels.patch_size != vision.patch:
        raise CheckpointError(f"{file} cuts patches of {pixels.patch_size} pixels, but the tower sees {vision.patch}")
    numbered = version == "2.6"
    config = Config(
        vision,
        decoder,
        cross_attention.Config(known.query_num, max(1, decoder.width // HEAD)),
        pixels.scale_resolution,
        pixels.max_slice_nums,
        numbered,
    )
    layout = _layout(pixels, config, numbered and pixels.use_image_id)
    processor = _ended(read_chat(folder, decoder.context, decoder.vocabulary, layout), end)
    with torch.device("meta"):
        model = MiniCPMV(config, processor)
    state, weights = folder.tensors(WEIGHTS)
    left_out = (
        "resampler.pos_embed",
        "vpm.embeddings.position_ids",
        "llm.model.layers.*.self_attn.rotary_emb.inv_freq",
    )
    return take_tensors(model, _table(config), state, str(weights), left_out).eval()


def save(model: MiniCPMV, folder: Path) -> None:
    """Writes the model as its authors store it, without their program, into a folder that exists.

    Raises CheckpointError where their program would compute something else.
    """
    config, layout = model.config, model.processor.layout
    text = decoder_section(config.language)
    version = "2.6" if config.numbered else "2.5"
    kind = text.pop("model_type")
    if kind != _VERSIONS[version][0]:
        raise CheckpointError(
            f"MiniCPM-V {version} has the decoder of {_VERSIONS[version][0]}; this model has {kind}'s"
        )
    if text.pop("head_dim") * text["num_attention_heads"] != text["hidden_size"]:
        raise CheckpointError(f"MiniCPM-V's decoder has heads that make up its width; this one is {config.language}")
    if not isinstance(layout, Slices) or layout.merge != 1 or layout.interpolation != "bicubic":
        raise CheckpointError(f"MiniCPM-V sees slices, resized bicubically; this model has {layout}")
    written = _Pixels(
        layout.most,
        layout.size,
        layout.patch,
        True,
        layout.mean,
        layout.std,
        layout.before,
        layout.behind,
        layout.slice_before if config.numbered else layout.grid_before,
        layout.slice_behind if config.numbered else layout.grid_behind,
        layout.token,
        layout.id_before or "<image_id>",
        layout.id_behind or "</image_id>",
        bool(layout.id_before),
    )
    if _layout(written, config, bool(layout.id_before)) != layout:
        raise CheckpointError(f"MiniCPM-V {version} writes pictures between marks in another way than {layout}")
    if config.connector != cross_attention.Config(layout.image_tokens, model.language.width // HEAD):
        raise CheckpointError(f"MiniCPM-V's resampler has a head for {HEAD} values; this one is {config.connector}")
    tower = config.vision
    slices = {"max_slice_nums": layout.most, "patch_size": layout.patch, "scale_resolution": layout.size}
    write_chat(model.processor, folder)
    write_ends(model.processor, folder)
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "MiniCPMVImageProcessor",
            **asdict(written),
            "image_feature_size": layout.image_tokens,
            "version": float(version),
        },
    )
    write_json(
        folder / "config.json",
        {
            "architectures": ["MiniCPMV"],
            "model_type": "minicpmv",
            "version": version,
            "dtype": "float32",
            **text,
            "query_num": layout.image_tokens,
            "image_size": layout.size,
            "patch_size": layout.patch,
            "batch_vision_input": True,
            "drop_vision_last_layer": False,
            "slice_mode": True,
            "slice_config": {"model_type": "minicpmv", **slices},
            "use_image_id": bool(layout.id_before),
            "vision_config": {
                **_idefics.vision_section(tower, tower.side * tower.patch),
                "model_type": "siglip_vision_model",
            },
        },
    )
    write_tensors(folder / "model.safetensors", give_tensors(model, _table(config)))


def _layout(pixels: _Pixels, config: Config, counted: bool) -> Slices:
    """The layout that a checkpoint's settings describe. counted: whether images have their numbers before them."""
    layout = Slices(
        pixels.scale_resolution,
        pixels.patch_size,
        pixels.max_slice_nums,
        config.connector.queries,
        mean=pixels.norm_mean,
        std=pixels.norm_std,
        token=pixels.unk,
        before=pixels.im_start,
        behind=pixels.im_end,
        between="\n",
    )
    if not config.numbered:
        return replace(
            layout,
            slice_before=pixels.im_start,
            slice_behind=pixels.im_end,
            grid_before=pixels.slice_start,
            grid_behind=pixels.slice_end,
        )
    numbers = (pixels.im_id_start, pixels.im_id_end) if counted else ("", "")
    return replace(
        layout,
        slice_before=pixels.slice_start,
        slice_behind=pixels.slice_end,
        id_before=numbers[0],
        id_behind=numbers[1],
    )


def _ended(processor: ChatProcessor, end: str) -> ChatProcessor:
    """The processor with the token that ends a turn first among its end tokens, where the tokenizer has it."""
    settings = processor.settings
    if processor.backend.token_to_id(end) is None or settings.ends[0] == end:
        return processor
    ends = (end, *(token for token in settings.ends if token != end))
    return ChatProcessor(processor.backend, replace(settings, ends=ends), processor.template.source)


def _table(config: Config) -> tuple[Rule, ...]:
    return (
        Rule("vision.embed.weight", "vpm.embeddings.patch_embedding.weight", _idefics.CONVOLUTION),
        Rule("vision.embed.bias", "vpm.embeddings.patch_embedding.bias"),
        Rule("vision.position", "vpm.embeddings.position_embedding.weight"),
        *tower_rules("vision", "vpm"),
        Rule("vision.norm.*", "vpm.post_layernorm.*"),
        *resampler_rules("resampler", "resampler"),
        *decoder_rules("language.", "llm.model.", config.language, "llm.lm_head.weight"),
    )
