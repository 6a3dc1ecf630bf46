"""The tokenizers of foreign checkpoints, as transformers lays them out (open_clip's folders hold the same files)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import tokenizers

from chiasm.data.tokenizer import TextTransform, Tokenizer
from chiasm.errors import CheckpointError
from chiasm.weights import byte_pairs, cleaning, sentencepiece
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import write_json

TOKENIZERS = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model", byte_pairs.ARCHIVE)
_GEMMA = ("GemmaTokenizer", "Siglip2Tokenizer")


def read_tokenizer(folder: CheckpointFolder, context: int, vocabulary: int, lower: bool = False) -> Tokenizer:
    """The tokenizer of a folder: `tokenizer.json`, CLIP's `vocab.json` and `merges.txt`, or sentencepiece's
    `spiece.model` (SigLIP) or `tokenizer.model` (Gemma, of SigLIP 2).

    context, vocabulary: the model's. Texts are cut where the checkpoint says, and at the model's context at the latest.
    Padding is as in `TextTransform`'s defaults, with the checkpoint's pad token.
    lower: whether this family of models reads lower case alone, whatever the files say; `do_lower_case` says it too.
    Raises CheckpointError where there is none, or its ids or its padding do not fit the model.
    """
    settings = folder.entries("tokenizer_config.json")
    backend = _backend(folder, settings)
    _check_sides(folder, settings, backend)
    if backend.get_vocab_size() > vocabulary:
        raise CheckpointError(
            f"the tokenizer in {folder} has {backend.get_vocab_size()} tokens, but its model only {vocabulary}"
        )
    lower_stated = settings.get("do_lower_case")
    if _class(settings) == "SiglipTokenizer":
        lowered = cleaning.LOWER if lower_stated in (None, True) else ()
        cleaning.clean_first(backend, (*lowered, *cleaning.SIGLIP))
    elif lower or _class(settings) == "Siglip2Tokenizer" or (_class(settings) in _GEMMA and lower_stated):
        cleaning.clean_first(backend, cleaning.LOWER)
    longest = settings.get("model_max_length") or context
    rules = TextTransform(context=int(min(longest, context)), pad_id=_pad_id(folder, settings, backend))
    return Tokenizer(backend, rules)


def padded_to_context(tokenizer: Tokenizer, context: int, where: str) -> Tokenizer:
    """The tokenizer for a model that always reads its whole context. Raises CheckpointError if it cuts before that."""
    if tokenizer.rules.context != context:
        raise CheckpointError(
            f"{where}: the tokenizer pads texts to {tokenizer.rules.context} tokens, but the model reads {context}"
        )
    return Tokenizer(tokenizer.backend, replace(tokenizer.rules, padding="context"))


def end_id(tokenizer: Tokenizer) -> int:
    """The id of the token that ends every text. Raises CheckpointError for a tokenizer that adds none."""
    added: list[int] = tokenizer.backend.encode("").ids
    if not added:
        raise CheckpointError("the tokenizer does not end texts with a mark, where a text tower would read them")
    return added[-1]


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes `tokenizer.json` and a `tokenizer_config.json` that has transformers read it as it stands.

    The attention mask is not among the model's inputs: SigLIP sees its padding, and CLIP cannot.
    Raises CheckpointError where a model that sees its padding pads with an ordinary token: transformers would then
    take that token out of texts too.
    """
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.no_truncation()  # the length stands in the settings; one caller may want another
    added = [backend.id_to_token(id_) for id_ in backend.encode("").ids]
    special = {id_: token.content for id_, token in backend.get_added_tokens_decoder().items() if token.special}
    pad = special.get(tokenizer.rules.pad_id)
    if pad is None and (tokenizer.rules.padding == "context" or not added):
        raise CheckpointError(
            f"pad_id {tokenizer.rules.pad_id} is not a special token; transformers cannot pad with it"
        )
    backend.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": tokenizer.rules.context,
        "model_input_names": ["input_ids"],
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        "pad_token": added[-1] if pad is None else pad,  # a causal model does not see what comes after the end
    }
    if added:
        settings["eos_token"] = added[-1]
    if len(added) > 1:
        settings["bos_token"] = added[0]
    write_json(folder / "tokenizer_config.json", settings)


def _backend(folder: CheckpointFolder, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    if folder.holds("tokenizer.json"):
        return Tokenizer(folder.tokenizer, TextTransform()).backend  # a copy, which may be changed
    if folder.holds("vocab.json") and folder.holds("merges.txt"):
        return byte_pairs.read_files(folder / "vocab.json", folder / "merges.txt")
    if folder.holds("spiece.model"):
        return sentencepiece.read(folder / "spiece.model", end=_content(settings.get("eos_token")) or "</s>")
    if folder.holds("tokenizer.model"):
        return sentencepiece.read(folder / "tokenizer.model", end=_content(settings.get("eos_token")) or "<eos>")
    if folder.holds(byte_pairs.ARCHIVE):
        return byte_pairs.read_archive(folder / byte_pairs.ARCHIVE)
    raise CheckpointError(
        f"{folder} has no tokenizer; expected tokenizer.json, vocab.json with merges.txt, spiece.model, "
        f"tokenizer.model, or {byte_pairs.ARCHIVE} as in open_clip's package"
    )


def _class(settings: Mapping[str, Any]) -> str:
    return str(settings.get("tokenizer_class", "")).removesuffix("Fast")


def _check_sides(folder: CheckpointFolder, settings: Mapping[str, Any], backend: tokenizers.Tokenizer) -> None:
    """Raises CheckpointError unless texts are padded and cut on the right."""
    padding = str(backend.padding["direction"]) if backend.padding is not None else ""
    silent = "left" if _class(settings) in _GEMMA else "right"  # what transformers takes where nothing is said
    sides = {
        "padding_side": settings.get("padding_side") or padding or silent,
        "truncation_side": settings.get("truncation_side", "right"),
    }
    for name, side in sides.items():
        if side != "right":
            raise CheckpointError(f"{folder}/tokenizer_config.json: {name} is {side!r}; only 'right' is known")


def _pad_id(folder: CheckpointFolder, settings: Mapping[str, Any], backend: tokenizers.Tokenizer) -> int:
    special = folder.entries("special_tokens_map.json")
    token = _content(settings.get("pad_token")) or _content(special.get("pad_token"))
    if token is None and backend.padding is not None:
        token = backend.padding["pad_token"]
    if token is None and _class(settings) == "SiglipTokenizer":
        token = "</s>"  # noqa: S105  # not a password: what that tokenizer pads with where nothing is said
    if token is None:
        ids = backend.encode("").ids
        if not ids:
            raise CheckpointError(f"{folder} does not say what texts are padded with; set pad_token there")
        return int(ids[-1])
    found = backend.token_to_id(token)
    if found is None:
        raise CheckpointError(f"{folder} pads texts with {token!r}, which its tokenizer does not know")
    return int(found)


def _content(token: Any) -> str | None:
    """The text of a token, which the files give as itself or as a mapping with its content."""
    return token.get("content") if isinstance(token, Mapping) else token
