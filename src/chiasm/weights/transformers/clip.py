"""CLIP as transformers stores it (CLIPModel), with a ViT as its vision tower.

transformers reads a text at the first end token, or, where `eos_token_id` is 2 as in old files, at the highest id. We
read it at its last token. For what the tokenizer makes of a text, cut or not, these are one position; only a text that
itself spells out the end token is read earlier by transformers."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from chiasm.data.processor import PairProcessor
from chiasm.data.tokenizer import Tokenizer
from chiasm.errors import CheckpointError
from chiasm.models.clip import CLIP, Config
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import read_section, write_json, write_tensors
from chiasm.weights.mapping import Rule, give_tensors, take_tensors
from chiasm.weights.texts import end_id, read_tokenizer, write_tokenizer
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

MODEL = CLIP

TABLE = (
    *TOWERS,
    Rule("image_head.weight", "visual_projection.weight"),
    Rule("text_head.weight", "text_projection.weight"),
    Rule("log_scale", "logit_scale"),
)

# What transformers takes where a config says nothing: ViT-B/32.
_VISION = Vision(768, 3072, 12, 12, "quick_gelu", 1e-5, image_size=224, patch_size=32)
_TEXT = Text(512, 2048, 12, 8, "quick_gelu", 1e-5, vocab_size=49_408, max_position_embeddings=77)
_WIDTH, _LOG_SCALE, _END = 512, 2.6592, 49_407
_HIGHEST = 2  # the eos_token_id that stands for "the highest id" in transformers


def load(folder: CheckpointFolder) -> CLIP:
    """The model in a folder, with its processor, in evaluation mode."""
    settings = folder.settings
    where = f"{folder / 'config.json'}"
    # Some old files hold each tower's settings twice; transformers then takes these.
    towers = {key: settings.get(f"{key}_dict") or settings.get(key) or {} for key in ("vision_config", "text_config")}
    vision = read_section(_VISION, towers["vision_config"], f"{where}: vision_config")
    text = read_section(_TEXT, towers["text_config"], f"{where}: text_config")
    config = Config(
        vision.tower("class", pre_norm=True),
        text.tower(causal=True),
        settings.get("projection_dim", _WIDTH),
        math.exp(-settings.get("logit_scale_init_value", _LOG_SCALE)),
    )
    tokenizer = read_tokenizer(folder, text.max_position_embeddings, text.vocab_size)
    _check_end(tokenizer, towers["text_config"].get("eos_token_id", _END), where)
    processor = PairProcessor(read_pixels(folder, vision.image_size), tokenizer)
    with torch.device("meta"):
        model = CLIP(config, processor)
    state, file = folder.tensors(WEIGHTS)
    return take_tensors(model, TABLE, state, str(file), POSITION_IDS).eval()


def save(model: CLIP, folder: Path) -> None:
    """Writes the model for transformers, into a folder that exists.

    Raises CheckpointError where transformers has no such CLIP (its vision tower is a ViT), or reads texts elsewhere.
    """
    config, tokenizer = model.config, model.processor.tokenizer
    end, pad = end_id(tokenizer), tokenizer.rules.pad_id
    settings = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.width,
        "logit_scale_init_value": -math.log(config.temperature),
        "vision_config": vision_section(config.vision, "class", pre_norm=True)
        | {"model_type": "clip_vision_model", "projection_dim": config.width},
        "text_config": text_section(config.text, causal=True)
        | {"model_type": "clip_text_model", "projection_dim": config.width}
        | {"bos_token_id": tokenizer.backend.encode("").ids[0], "eos_token_id": end, "pad_token_id": pad},
    }
    _check_end(tokenizer, end, "the model to be saved")
    write_pixels(model.processor.image, "CLIP", folder)
    write_tokenizer(tokenizer, folder)
    write_json(folder / "config.json", settings)
    write_tensors(folder / "model.safetensors", give_tensors(model, TABLE))


def _check_end(tokenizer: Tokenizer, declared: int, where: str) -> None:
    """Checks that transformers reads texts at the same token as we do; see the module. Raises CheckpointError else."""
    end, highest = end_id(tokenizer), tokenizer.vocabulary - 1
    if end != (highest if declared == _HIGHEST else declared):
        rule = f"at the highest id, {highest}" if declared == _HIGHEST else f"at the first {declared}"
        raise CheckpointError(
            f"{where}: transformers reads texts {rule} (eos_token_id {declared}), but the tokenizer ends them "
            f"with {end}"
        )
