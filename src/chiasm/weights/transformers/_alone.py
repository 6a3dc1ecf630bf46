"""A language model alone, as transformers stores it (*ForCausalLM), of whichever kind."""

from __future__ import annotations

from pathlib import Path

import torch

from chiasm.models.language import Config, Language
from chiasm.nn.decoder import DecoderConfig
from chiasm.weights.chats import read_chat, write_chat, write_ends
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import write_json, write_tensors
from chiasm.weights.mapping import Rule, give_tensors, take_tensors
from chiasm.weights.transformers import _opt
from chiasm.weights.transformers._language import CONSTANTS, decoder_rules, decoder_section, read_decoder
from chiasm.weights.transformers._towers import WEIGHTS


def load(folder: CheckpointFolder, kind: str) -> Language:
    """The model in a folder, with its processor, in evaluation mode."""
    settings = folder.settings
    where = str(folder / "config.json")
    decoder = _opt.read_decoder(settings, where) if kind == "opt" else read_decoder(kind, settings, where)
    processor = read_chat(folder, decoder.context, decoder.vocabulary)
    with torch.device("meta"):
        model = Language(Config(decoder), processor)
    state, file = folder.tensors(WEIGHTS)
    left_out = (*CONSTANTS, *(("lm_head.weight",) if model.language.head is None else ()))
    return take_tensors(model, _table(decoder), state, str(file), left_out).eval()


def save(model: Language, folder: Path) -> None:
    """Writes the model for transformers, into a folder that exists."""
    decoder = model.config.language
    section = decoder_section(decoder)
    names = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "opt": "OPT"}
    architecture = f"{names[section['model_type']]}ForCausalLM"
    write_chat(model.processor, folder)
    write_json(folder / "config.json", {"architectures": [architecture], "dtype": "float32", **section})
    write_ends(model.processor, folder)
    write_tensors(folder / "model.safetensors", give_tensors(model, _table(decoder)))


def rules(model: Language) -> tuple[Rule, ...]:
    """The names under which each tensor of this model is stored."""
    return _table(model.config.language)


def _table(decoder: DecoderConfig) -> tuple[Rule, ...]:
    return decoder_rules("language.", "model.", decoder, "lm_head.weight")
