"""InternVL as transformers stores it (InternVLForConditionalGeneration; on the Hub, the checkpoints named "-hf")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from chiasm.data.box_formats.internvl import InternVL as Boxes
from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.layouts.aspect_tiles import AspectTiles
from chiasm.errors import CheckpointError
from chiasm.models.internvl import Config, InternVL
from chiasm.nn.connectors import pixel_shuffle_mlp
from chiasm.nn.decoder import DecoderConfig
from chiasm.nn.image_towers import internvit
from chiasm.weights.chats import image_token_id, read_chat, token_of, write_chat, write_ends
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import read_json, read_section, write_json, write_tensors
from chiasm.weights.mapping import ONE_MORE, TWO_MORE, Rule, give_tensors, renamed, take_tensors
from chiasm.weights.transformers import llava
from chiasm.weights.transformers._language import CONSTANTS, decoder_rules, decoder_section, read_decoder
from chiasm.weights.transformers._pixels import filter_name, filter_number, normalisation, read_entries
from chiasm.weights.transformers._towers import ACTS, WEIGHTS, Act, act_name

MODEL = InternVL

_Norm = Literal["layer_norm", "rms_norm"]
_NORMS: dict[_Norm, Literal["layer", "rms"]] = {"layer_norm": "layer", "rms_norm": "rms"}
_Side = int | tuple[int, int]


@dataclass(frozen=True)
class _Vision:
    """A `vision_config`, with transformers' defaults."""

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    attention_bias: bool = False
    use_qk_norm: bool = False
    intermediate_size: int = 4096
    hidden_act: Act = "gelu"
    hidden_dropout_prob: Literal[0] = 0
    attention_dropout: Literal[0] = 0
    projection_dropout: Literal[0] = 0
    norm_type: _Norm = "layer_norm"
    layer_norm_eps: float = 1e-6
    image_size: _Side = 448
    patch_size: _Side = 14
    num_channels: Literal[3] = 3
    use_mask_token: Literal[False] = False
    use_absolute_position_embeddings: Literal[True] = True
    layer_scale_init_value: float = 0.1
    use_mean_pooling: Literal[True] = True  # else a norm would follow the last block


@dataclass(frozen=True)
class _Whole:
    """The settings of the whole. transformers reads no other layer, and no class token, of published checkpoints."""

    projector_hidden_act: Act = "gelu"
    downsample_ratio: float = 0.5
    vision_feature_layer: Literal[-1] = -1
    vision_feature_select_strategy: Literal["default"] = "default"


@dataclass(frozen=True)
class _Pixels:
    """A `preprocessor_config.json`; that pictures are cut into tiles is said by the processor around it."""

    resample: int = 3
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    size: int | dict[str, int] = 384
    do_resize: Literal[True] = True
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    min_patches: int = 1
    max_patches: int = 12


def load(folder: CheckpointFolder) -> InternVL:
    """The model in a folder, with its processor, in evaluation mode."""
    settings = folder.settings
    where = str(folder / "config.json")
    whole = read_section(_Whole(), settings, where)
    if (side := round(1 / whole.downsample_ratio)) * whole.downsample_ratio != 1:
        raise CheckpointError(f"{where}: downsample_ratio {whole.downsample_ratio} makes no squares of features")
    state, file = folder.tensors(WEIGHTS)
    state = renamed(state, _VARIANTS)
    text = settings.get("text_config") or {}
    tied = bool(settings.get("tie_word_embeddings", True)) and _same_head(state)
    decoder = read_decoder(text.get("model_type", "qwen2"), {**text, "tie_word_embeddings": tied}, where)
    vision = read_section(_Vision(), settings.get("vision_config") or {}, f"{where}: vision_config")
    config = Config(_tower(vision, where), decoder, pixel_shuffle_mlp.Config(side, ACTS[whole.projector_hidden_act]))
    layout = _layout(folder, settings, config)
    with torch.device("meta"):
        model = InternVL(config, read_chat(folder, decoder.context, decoder.vocabulary, layout, Boxes()))
    left_out = (*CONSTANTS, *(_HEAD if decoder.tied else ()))
    return take_tensors(model, _table(decoder), state, str(file), left_out).eval()


def save(model: InternVL, folder: Path) -> None:
    """Writes the model for transformers, into a folder that exists.

    Raises CheckpointError where transformers has no such InternVL.
    """
    config, layout, tower = model.config, model.processor.layout, model.config.vision
    if not isinstance(layout, AspectTiles) or not layout.thumbnail or not layout.before or not layout.behind:
        raise CheckpointError(
            f"transformers' InternVL reads tiles with a view of the whole, between two marks; this model has {layout}"
        )
    vision = _Vision(
        hidden_size=tower.width,
        num_hidden_layers=tower.layers,
        num_attention_heads=tower.heads,
        attention_bias=tower.bias,
        use_qk_norm=tower.qk_norm,
        intermediate_size=tower.mlp_width,
        hidden_act=act_name(tower.act),
        norm_type=next(theirs for theirs, ours in _NORMS.items() if ours == tower.norm),
        layer_norm_eps=tower.epsilon,
        image_size=(tower.image_size, tower.image_size),
        patch_size=(tower.patch, tower.patch),
        layer_scale_init_value=tower.scale,
    )
    whole = _Whole(act_name(config.connector.act), 1 / config.connector.side)
    write_chat(model.processor, folder)
    _write_layout(layout, model.processor, folder)
    write_json(
        folder / "config.json",
        {
            "architectures": ["InternVLForConditionalGeneration"],
            "model_type": "internvl",
            "dtype": "float32",
            **asdict(whole),
            "vision_config": {"model_type": "internvl_vision", **asdict(vision)},
            "text_config": decoder_section(config.language),
            "image_token_id": model.processor.backend.token_to_id(layout.image_token),
            "image_seq_length": layout.image_tokens,
            "tie_word_embeddings": model.language.head is None,
        },
    )
    write_ends(model.processor, folder)
    write_tensors(folder / "model.safetensors", give_tensors(model, _table(config.language)))


_HEAD = ("language_model.lm_head.weight",)

# How versions of transformers have named the parts; the short names are those of published checkpoints.
_VARIANTS = {
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}
MODULES = llava.MODULES


def rules(model: InternVL) -> tuple[Rule, ...]:
    """The names under which each tensor of this model is stored."""
    return _table(model.config.language)


def _table(decoder: DecoderConfig) -> tuple[Rule, ...]:
    block, layer = "vision.blocks.*", "vision_tower.encoder.layer.*"
    return (
        Rule("vision.class_token", "vision_tower.embeddings.cls_token", TWO_MORE),
        Rule("vision.position", "vision_tower.embeddings.position_embeddings", ONE_MORE),
        Rule("vision.embed.*", "vision_tower.embeddings.patch_embeddings.projection.*"),
        Rule(f"{block}.norm1.*", f"{layer}.layernorm_before.*"),
        Rule(f"{block}.attention.q.*", f"{layer}.attention.q_proj.*"),
        Rule(f"{block}.attention.k.*", f"{layer}.attention.k_proj.*"),
        Rule(f"{block}.attention.v.*", f"{layer}.attention.v_proj.*"),
        Rule(f"{block}.attention.q_norm.*", f"{layer}.attention.q_norm.*"),
        Rule(f"{block}.attention.k_norm.*", f"{layer}.attention.k_norm.*"),
        Rule(f"{block}.attention.out.*", f"{layer}.attention.projection_layer.*"),
        Rule(f"{block}.scale1", f"{layer}.lambda_1"),
        Rule(f"{block}.norm2.*", f"{layer}.layernorm_after.*"),
        Rule(f"{block}.mlp.up.*", f"{layer}.mlp.fc1.*"),
        Rule(f"{block}.mlp.down.*", f"{layer}.mlp.fc2.*"),
        Rule(f"{block}.scale2", f"{layer}.lambda_2"),
        Rule("connector.norm.*", "multi_modal_projector.layer_norm.*"),
        Rule("connector.up.*", "multi_modal_projector.linear_1.*"),
        Rule("connector.down.*", "multi_modal_projector.linear_2.*"),
        *decoder_rules("language.", "language_model.model.", decoder, *_HEAD),
    )


def _tower(vision: _Vision, where: str) -> internvit.Config:
    return internvit.Config(
        _side(vision.image_size, where),
        _side(vision.patch_size, where),
        vision.hidden_size,
        vision.num_hidden_layers,
        vision.num_attention_heads,
        vision.intermediate_size,
        ACTS[vision.hidden_act],
        _NORMS[vision.norm_type],
        vision.attention_bias,
        vision.use_qk_norm,
        vision.layer_norm_eps,
        vision.layer_scale_init_value,
    )


def _side(size: _Side, where: str) -> int:
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise CheckpointError(f"{where}: pictures or patches of {height}x{width} pixels are not square")
    return height


def _same_head(state: Mapping[str, Tensor]) -> bool:
    """Whether the head is the embeddings. Files written before version 5 leave to their tensors what is tied."""
    head = state.get(*_HEAD)
    return head is None or torch.equal(head, state["language_model.model.embed_tokens.weight"])


def _layout(folder: CheckpointFolder, settings: Mapping[str, Any], config: Config) -> AspectTiles:
    entries, file = read_entries(folder)
    pixels = read_section(_Pixels(), entries, str(file))
    size = {"height": pixels.size, "width": pixels.size} if isinstance(pixels.size, int) else pixels.size
    needed = config.vision.image_size
    if (size.get("height"), size.get("width")) != (needed, needed):
        raise CheckpointError(f"{file} makes tiles of {pixels.size} pixels, but the model sees {needed}")
    if (image_tokens := settings.get("image_seq_length", 256)) != config.image_tokens:
        raise CheckpointError(
            f"{folder}: image_seq_length is {image_tokens}, but a tile makes {config.image_tokens} image tokens"
        )
    names = folder.entries("tokenizer_config.json")
    names = {**names, **_mapping(names.get("extra_special_tokens"))}
    mean, std = normalisation(pixels)
    return AspectTiles(
        needed,
        image_tokens,
        pixels.min_patches,
        pixels.max_patches,
        interpolation=filter_name(pixels.resample, file),
        mean=mean,
        std=std,
        token=token_of(folder, image_token_id(settings, default=151_667)),
        before=str(names.get("start_image_token", "<img>")),
        behind=str(names.get("end_image_token", "</img>")),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _write_layout(layout: AspectTiles, processor: ChatProcessor, folder: Path) -> None:
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "GotOcr2ImageProcessor",
            "crop_to_patches": True,
            "min_patches": layout.min_tiles,
            "max_patches": layout.max_tiles,
            "size": {"height": layout.size, "width": layout.size},
            "resample": filter_number(layout.interpolation),
            "do_convert_rgb": True,
            "do_resize": True,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(layout.mean),
            "image_std": list(layout.std),
        },
    )
    write_json(
        folder / "processor_config.json",
        {"processor_class": "InternVLProcessor", "image_seq_length": layout.image_tokens},
    )
    tokens = {
        "start_image_token": layout.before,
        "end_image_token": layout.behind,
        "context_image_token": layout.token,
        "video_token": "<video>",
    }
    known = {name: token for name, token in tokens.items() if processor.backend.token_to_id(token) is not None}
    file = folder / "tokenizer_config.json"  # where the processor of transformers looks for them
    write_json(file, read_json(file) | {"extra_special_tokens": known})
