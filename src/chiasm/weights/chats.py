"""Tokenizer and chat template of foreign generative checkpoints, as transformers lays them out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from chiasm.data.box_format import BoxFormat
from chiasm.data.chat_processor import ChatProcessor, ChatSettings
from chiasm.data.layout import Layout
from chiasm.errors import CheckpointError
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import write_json

_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")


def read_chat(
    folder: CheckpointFolder,
    context: int,
    vocabulary: int,
    layout: Layout | None = None,
    boxes: BoxFormat | None = None,
) -> ChatProcessor:
    """The processor of a generative checkpoint: tokenizer, chat template, and which tokens end its turns.

    context, vocabulary: the model's. layout: of its pictures. boxes: how it writes regions of them.
    Raises CheckpointError where the tokenizer is missing or does not fit, or nothing says what ends a text.
    """
    backend = folder.tokenizer
    if backend.get_vocab_size() > vocabulary:
        raise CheckpointError(
            f"the tokenizer in {folder} has {backend.get_vocab_size()} tokens, but its model only {vocabulary}"
        )
    settings = folder.entries("tokenizer_config.json")
    marks = _marks(folder, settings)
    ends = _ends(folder, backend, marks)
    template = _template(folder, settings)
    start = _start(backend, marks, template)
    return ChatProcessor(backend, ChatSettings(context, layout, start, ends, marks, boxes), template)


def token_of(folder: CheckpointFolder, id_: int) -> str:
    """The token with an id, such as the image token that a config names."""
    token = folder.tokenizer.id_to_token(id_)
    if token is None:
        raise CheckpointError(
            f"the tokenizer in {folder} has no token {id_}, which the config names as its image token"
        )
    return str(token)


def write_chat(processor: ChatProcessor, folder: Path) -> None:
    """Writes `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` for transformers."""
    processor.backend.save(str(folder / "tokenizer.json"))
    marks = dict(processor.settings.marks)
    marks.setdefault("eos_token", processor.settings.ends[0])
    marks.setdefault("pad_token", marks["eos_token"])
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": processor.settings.context,
        "padding_side": "left",  # as generation needs it there
        "clean_up_tokenization_spaces": False,
        **marks,
    }
    write_json(folder / "tokenizer_config.json", settings)
    if processor.template.source:
        (folder / "chat_template.jinja").write_text(processor.template.source, encoding="utf-8")


def image_token_id(settings: Mapping[str, Any], default: int) -> int:
    """The id of the image token, under any of the names that configs give it."""
    for name in ("image_token_id", "image_token_index"):
        if settings.get(name) is not None:
            return int(settings[name])
    return default


def write_ends(processor: ChatProcessor, folder: Path) -> None:
    """Writes `generation_config.json`, which names the tokens that end an answer."""
    ends = list(processor.end_ids)
    write_json(folder / "generation_config.json", {"eos_token_id": ends[0] if len(ends) == 1 else ends})


def _marks(folder: CheckpointFolder, settings: Mapping[str, Any]) -> dict[str, str]:
    special = folder.entries("special_tokens_map.json")
    found = {name: _content(settings.get(name)) or _content(special.get(name)) for name in _NAMED}
    return {name: token for name, token in found.items() if token is not None}


def _ends(folder: CheckpointFolder, backend: tokenizers.Tokenizer, marks: Mapping[str, str]) -> tuple[str, ...]:
    """The tokens that end a text: those of `generation_config.json`, then that of the tokenizer."""
    ids = folder.entries("generation_config.json").get("eos_token_id")
    if ids is None:
        ids = folder.entries("config.json").get("eos_token_id")
    listed = ids if isinstance(ids, list) else [] if ids is None else [ids]
    known = [backend.id_to_token(id_) for id_ in listed]
    ends = [marks["eos_token"]] if "eos_token" in marks else []
    ends += [token for token in known if token is not None and token not in ends]
    if not ends:
        raise CheckpointError(f"{folder} names no eos_token, so its model would never stop; set one")
    return tuple(ends)


def _template(folder: CheckpointFolder, settings: Mapping[str, Any]) -> str:
    """The chat template, from wherever versions of transformers have put it, in its order; "" where there is none."""
    if found := _default(folder.entries("processor_config.json").get("chat_template")):
        return found
    if folder.holds("chat_template.jinja"):
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if folder.holds("chat_template.json"):
        return _default(folder.entries("chat_template.json").get("chat_template"))
    return _default(settings.get("chat_template"))


def _default(found: object) -> str:
    """A template that a settings file holds; of several, by name, the default one."""
    if isinstance(found, list):
        found = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, Mapping)}
    if isinstance(found, Mapping):
        found = found.get("default")
    return str(found or "")


def _start(backend: tokenizers.Tokenizer, marks: Mapping[str, str], template: str) -> str:
    """The token that the tokenizer puts before every text, unless the template writes it itself."""
    bos = marks.get("bos_token")
    writes = bos is not None and ("bos_token" in template or bos in template)
    begins = bos is not None and backend.encode("a").ids[:1] == [backend.token_to_id(bos)]
    return bos if bos is not None and begins and not writes else ""


def _content(token: Any) -> str | None:
    """The text of a token, which the files give as itself or as a mapping with its content."""
    return token.get("content") if isinstance(token, Mapping) else token
