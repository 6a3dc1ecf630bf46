"""GGUF files of Llama-like language models, as llama.cpp stores them: read, and written anew as safetensors.

Converting is done once: the result is kept in the layout of transformers, which opens in a fraction of a second."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from torch import Tensor

from chiasm.data.chat_processor import ChatProcessor, ChatSettings
from chiasm.data.file_cache import cache_folder
from chiasm.errors import CheckpointError, MissingExtra
from chiasm.models.language import Config, Language
from chiasm.nn.decoders import llama
from chiasm.weights.mapping import Form, Rule, take_tensors

_CONTROL = 3  # the token type of special tokens

# How each pre-tokenizer that GGUF names splits text before byte pairs are merged.
_WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)
_SPLITTERS: dict[str, pre_tokenizers.PreTokenizer] = {
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _WORDS]),
    "gpt-2": _WORDS,
}


def load(file: Path) -> Language:
    """The language model in a GGUF file, weights in float32, in evaluation mode.

    Raises CheckpointError for an architecture or a tokenizer that we do not have, and for a file that is cut short.
    """
    facts, tensors = _read(file)
    kind = facts.get("general.architecture")
    if kind != "llama":
        raise CheckpointError(f"{file} holds a '{kind}'; of GGUF files those of the architecture 'llama' are read")
    heads, kv_heads = int(facts["llama.attention.head_count"]), int(facts["llama.attention.head_count_kv"])
    decoder = llama.Config(
        vocabulary=len(facts["tokenizer.ggml.tokens"]),
        width=int(facts["llama.embedding_length"]),
        layers=int(facts["llama.block_count"]),
        heads=heads,
        kv_heads=kv_heads,
        mlp_width=int(facts["llama.feed_forward_length"]),
        context=int(facts["llama.context_length"]),
        theta=float(facts.get("llama.rope.freq_base", 10_000.0)),
        epsilon=float(np.float32(facts["llama.attention.layer_norm_rms_epsilon"])),
        tied="output.weight" not in tensors,
    )
    with torch.device("meta"):
        model = Language(Config(decoder), _processor(facts, decoder.context, file))
    return take_tensors(model, _table(decoder), tensors, str(file)).eval()


def converted(file: Path) -> Path:
    """The folder, in the user's cache, that holds a GGUF file's model in transformers' layout; made if it is not there.

    It is found again by the file's content. Raises CheckpointError as `load` does.
    """
    from chiasm.weights import transformers

    try:
        with file.open("rb") as content:
            key = hashlib.file_digest(content, "blake2b").hexdigest()[:20]
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror or error}") from error
    folder = cache_folder() / "gguf" / f"{file.stem}-{key}"
    if folder.is_dir():
        return folder
    aside = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        aside.mkdir(parents=True, exist_ok=True)
        transformers.save(load(file), aside)
        aside.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # else another process was faster
            raise CheckpointError(
                f"cannot keep the converted {file.name} in {folder}: {error.strerror or error}; set CHIASM_CACHE to a "
                "folder with room"
            ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        import gguf
    except ImportError as error:
        raise MissingExtra("gguf", "backbones", "GGUF files") from error
    try:
        reader = gguf.GGUFReader(file)
        facts = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {
            stored.name: torch.from_numpy(np.array(gguf.dequantize(stored.data, stored.tensor_type), dtype=np.float32))
            for stored in reader.tensors
        }
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no {file}") from error
    except (ValueError, IndexError, KeyError) as error:  # what its reader raises on files of other kinds, or cut short
        raise CheckpointError(f"{file} is not a GGUF file that can be read: {error}") from error
    return facts, tensors


def _processor(facts: Mapping[str, Any], context: int, file: Path) -> ChatProcessor:
    name = facts.get("tokenizer.ggml.pre", "gpt-2")
    if facts.get("tokenizer.ggml.model") != "gpt2" or name not in _SPLITTERS:
        raise CheckpointError(
            f"{file} has a tokenizer '{facts.get('tokenizer.ggml.model')}' / '{name}'; byte pairs with "
            f"{', '.join(_SPLITTERS)} are known"
        )
    tokens, kinds = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    merges = [tuple(pair.split(" ")) for pair in facts["tokenizer.ggml.merges"]]
    backend = tokenizers.Tokenizer(
        models.BPE({token: id_ for id_, token in enumerate(tokens)}, [(left, right) for left, right in merges])
    )
    backend.pre_tokenizer = _SPLITTERS[name]
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == _CONTROL
        ]
    )
    end = tokens[int(facts["tokenizer.ggml.eos_token_id"])]
    marks = {"eos_token": end}
    for name, key in (("bos_token", "bos"), ("unk_token", "unknown"), ("pad_token", "padding")):
        if (id_ := facts.get(f"tokenizer.ggml.{key}_token_id")) is not None:
            marks[name] = tokens[int(id_)]
    template = str(facts.get("tokenizer.chat_template", ""))
    return ChatProcessor(backend, ChatSettings(context, None, "", (end,), marks), template)


def _table(decoder: llama.Config) -> tuple[Rule, ...]:
    block, layer = "language.blocks.*", "blk.*"
    rules = [
        Rule("language.embed.weight", "token_embd.weight"),
        Rule(f"{block}.norm1.weight", f"{layer}.attn_norm.weight"),
        Rule(f"{block}.attention.q.weight", f"{layer}.attn_q.weight", _interleaved(decoder.heads)),
        Rule(f"{block}.attention.k.weight", f"{layer}.attn_k.weight", _interleaved(decoder.kv_heads)),
        Rule(f"{block}.attention.v.weight", f"{layer}.attn_v.weight"),
        Rule(f"{block}.attention.out.weight", f"{layer}.attn_output.weight"),
        Rule(f"{block}.norm2.weight", f"{layer}.ffn_norm.weight"),
        Rule(f"{block}.mlp.gate.weight", f"{layer}.ffn_gate.weight"),
        Rule(f"{block}.mlp.up.weight", f"{layer}.ffn_up.weight"),
        Rule(f"{block}.mlp.down.weight", f"{layer}.ffn_down.weight"),
        Rule("language.norm.weight", "output_norm.weight"),
    ]
    if not decoder.tied:
        rules.append(Rule("language.head.weight", "output.weight"))
    return tuple(rules)


def _interleaved(heads: int) -> Form:
    """The form of q and k for rotary positions: llama.cpp turns neighbours (2i, 2i + 1) of a head, we (i, i + E/2)."""

    def join(ours: Any) -> Tensor:
        rows, width = ours[0].shape
        return ours[0].view(heads, 2, rows // heads // 2, width).transpose(1, 2).reshape(rows, width)

    def split(theirs: Tensor, _count: int) -> tuple[Tensor]:
        rows, width = theirs.shape
        return (theirs.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width),)

    return Form(join, split)
