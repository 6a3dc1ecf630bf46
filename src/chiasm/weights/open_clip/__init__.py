"""CLIP and SigLIP as open_clip stores them: the folders that it puts on the Hub. CLIP has a ViT or a ResNet as its
vision tower, SigLIP one of timm's ViTs.

open_clip reads a CLIP's text at the highest id, or (`pool_type: eos`) at the first `eos_id`. We read it at its last
token. For what a tokenizer makes of a text, cut or not, these are one position. Its texts are mended by
ftfy first, of which we do only what `cleaning` says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from chiasm.data.processor import PairProcessor
from chiasm.data.tokenizer import Tokenizer
from chiasm.errors import CheckpointError
from chiasm.models.clip import CLIP
from chiasm.models.model import Model
from chiasm.models.siglip import SigLIP
from chiasm.weights import cleaning
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import write_json, write_tensors
from chiasm.weights.mapping import Rule, give_tensors, take_tensors
from chiasm.weights.open_clip import _siglip
from chiasm.weights.open_clip._settings import Text, read_model, read_pixels, write_model, write_pixels
from chiasm.weights.open_clip._table import TABLES
from chiasm.weights.texts import end_id, padded_to_context, read_tokenizer, write_tokenizer

SETTINGS, _SAVED = "open_clip_config.json", "open_clip_model.safetensors"
# In open_clip's own order of preference; the last is how OpenAI and training runs name theirs.
WEIGHTS = (
    _SAVED,
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "open_clip_pytorch_model.pt",
)
# Constants that old files hold beside the weights.
_CONSTANTS = ("attn_mask", "input_resolution", "context_length", "vocab_size")


def load(folder: Path) -> CLIP | SigLIP:
    """The model of an open_clip folder, with its processor read from the same folder, in evaluation mode.

    Raises CheckpointError for settings that we cannot follow to the letter, and for weights of which a single tensor is
    missing, unexpected or misshapen.
    """
    opened = CheckpointFolder(folder)
    return read(opened, opened)


def read(folder: CheckpointFolder, tokenizer_folder: CheckpointFolder) -> CLIP | SigLIP:
    """As `load`, of a folder that is open already.

    tokenizer_folder: where the tokenizer's files lie: another one than `folder` for a checkpoint of the Hub without
    any. open_clip itself takes one that is built in, OpenAI's, where the config names none.
    """
    file = folder / SETTINGS
    settings = folder.required(SETTINGS)
    entries = settings.get("model_cfg") or {}
    siglip = _siglip.is_siglip(entries)
    settings_of = _siglip.read_model if siglip else read_model
    config, image_size, text = settings_of(entries, f"{file}: model_cfg")
    tokenizer = _read_tokenizer(tokenizer_folder, text)
    if siglip:
        tokenizer = padded_to_context(tokenizer, text.context_length, str(file))
    else:
        _check_end(tokenizer, text, str(file))
    image = read_pixels(settings.get("preprocess_cfg") or {}, image_size, f"{file}: preprocess_cfg")
    with torch.device("meta"):
        model = config.model()(config, PairProcessor(image, tokenizer))  # type: ignore[arg-type]  # its own class
    state, weights = folder.tensors(WEIGHTS)
    state = {name.removeprefix("module."): value for name, value in state.items()}  # which parallel training adds
    for name in ("logit_scale", "logit_bias"):  # either form is found, whatever the config says; open_clip takes both
        if name in state and state[name].shape == (1,):
            state[name] = state[name][0]
    return take_tensors(model, _table(model), state, str(weights), _CONSTANTS).eval()


def save(model: Model, folder: Path) -> None:
    """Writes a folder that open_clip loads as `local-dir:FOLDER`: weights, settings and tokenizer.

    Raises CheckpointError if open_clip has no such model, or would compute something else from the same folder.
    """
    if not isinstance(model, (CLIP, SigLIP)):
        raise CheckpointError(f"we cannot write a {type(model).__name__} for open_clip; known: CLIP, SigLIP")
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; name a folder to save the checkpoint in")
    tokenizer = model.processor.tokenizer
    if isinstance(model, SigLIP):
        entries = _siglip.write_model(model.config)
    else:
        end = end_id(tokenizer)
        pool: Literal["argmax", "eos"] = "argmax" if end == tokenizer.vocabulary - 1 else "eos"
        entries = write_model(model.config, pool, end)
    settings = {"model_cfg": entries, "preprocess_cfg": write_pixels(model.processor.image)}
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(tokenizer, folder)
    write_json(folder / SETTINGS, settings)
    write_tensors(folder / _SAVED, give_tensors(model, _table(model)))


def _table(model: CLIP | SigLIP) -> tuple[Rule, ...]:
    return _siglip.table(model.config) if isinstance(model, SigLIP) else TABLES[type(model.config.vision)]


def _read_tokenizer(folder: CheckpointFolder, text: Text) -> Tokenizer:
    """The folder's tokenizer, as open_clip uses it: it cleans texts first, and cuts them at the model's context."""
    tokenizer = read_tokenizer(folder, text.context_length, text.vocab_size)
    cleaning.clean_first(tokenizer.backend, cleaning.OPEN_CLIP[text.clean])
    return Tokenizer(tokenizer.backend, replace(tokenizer.rules, context=text.context_length))


def _check_end(tokenizer: Tokenizer, text: Text, where: str) -> None:
    """Checks that open_clip reads texts at the same token as we do; see the module. Raises CheckpointError else."""
    end = end_id(tokenizer)
    wanted = text.eos_id if text.pool_type == "eos" else tokenizer.vocabulary - 1
    if end != wanted:
        raise CheckpointError(
            f"{where}: open_clip reads texts at the token {wanted} (pool_type {text.pool_type}), but the tokenizer "
            f"ends them with {end}"
        )
