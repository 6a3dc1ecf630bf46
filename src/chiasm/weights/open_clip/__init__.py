"""CLIP as open_clip stores it: the folders that it puts on the Hub, with a ViT or a ResNet as the vision tower.

open_clip reads a text at the highest id, or (`pool_type: eos`) at the first `eos_id`. We read it at its last token. For
what a tokenizer makes of a text, cut or not, these are one place.

It crops pictures by torchvision, which rounds the half of an odd rest to the even side where we and transformers cut it
off: for rests of 3, 7, 11, ... pixels its crop lies one pixel further on. Its texts are mended by ftfy first."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from chiasm.data.processor import PairProcessor
from chiasm.data.tokenizer import Tokenizer
from chiasm.errors import CheckpointError
from chiasm.models.clip import CLIP
from chiasm.models.model import Model
from chiasm.weights.files import read_json, read_tensors, write_json, write_tensors
from chiasm.weights.mapping import give_tensors, take_tensors
from chiasm.weights.open_clip._settings import Text, read_model, read_pixels, write_model, write_pixels
from chiasm.weights.open_clip._table import TABLES
from chiasm.weights.texts import end_id, read_tokenizer, write_tokenizer

_SETTINGS, _WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
# In open_clip's own order of preference; the last is how OpenAI and training runs name theirs.
_FILES = (
    _WEIGHTS,
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "open_clip_pytorch_model.pt",
)
# Constants that old files hold beside the weights.
_CONSTANTS = ("attn_mask", "input_resolution", "context_length", "vocab_size")


def load(folder: Path) -> CLIP:
    """The model of an open_clip folder, with its processor read from the same folder, in evaluation mode.

    The tokenizer is the one that lies in the folder, as on the Hub; open_clip itself takes a built-in one, OpenAI's,
    where the config names none. Raises CheckpointError for settings that we cannot follow to the letter, and for
    weights of which a single tensor is missing, unexpected or misshapen.
    """
    file = folder / _SETTINGS
    settings = read_json(file)
    config, image_size, text = read_model(settings.get("model_cfg") or {}, f"{file}: model_cfg")
    tokenizer = read_tokenizer(folder, text.context_length, text.vocab_size)
    _check_end(tokenizer, text, str(file))
    image = read_pixels(settings.get("preprocess_cfg") or {}, image_size, f"{file}: preprocess_cfg")
    with torch.device("meta"):
        model = CLIP(config, PairProcessor(image, tokenizer))
    state, weights = read_tensors(folder, _FILES)
    state = {name.removeprefix("module."): value for name, value in state.items()}  # which parallel training adds
    if "logit_scale" in state and state["logit_scale"].shape == (1,):
        state["logit_scale"] = state["logit_scale"][
            0
        ]  # either is found, whatever the config says; open_clip takes both
    return take_tensors(model, TABLES[type(config.vision)], state, str(weights), _CONSTANTS).eval()


def save(model: Model, folder: Path) -> None:
    """Writes a folder that open_clip loads as `local-dir:FOLDER`: weights, settings and tokenizer.

    Raises CheckpointError if open_clip has no such model, or would compute something else from the same folder.
    """
    if not isinstance(model, CLIP):
        raise CheckpointError(f"we cannot write a {type(model).__name__} for open_clip; known: CLIP")
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; name a folder to save the checkpoint in")
    tokenizer = model.processor.tokenizer
    end = end_id(tokenizer)
    pool: Literal["argmax", "eos"] = "argmax" if end == tokenizer.vocabulary - 1 else "eos"
    settings = {
        "model_cfg": write_model(model.config, pool, end),
        "preprocess_cfg": write_pixels(model.processor.image),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(tokenizer, folder)
    write_json(folder / _SETTINGS, settings)
    write_tensors(folder / _WEIGHTS, give_tensors(model, TABLES[type(model.config.vision)]))


def _check_end(tokenizer: Tokenizer, text: Text, where: str) -> None:
    """Whether open_clip reads texts where we do; see the module."""
    end = end_id(tokenizer)
    wanted = text.eos_id if text.pool_type == "eos" else tokenizer.vocabulary - 1
    if end != wanted:
        raise CheckpointError(
            f"{where}: open_clip reads texts at the token {wanted} (pool_type {text.pool_type}), but the tokenizer "
            f"ends them with {end}"
        )
