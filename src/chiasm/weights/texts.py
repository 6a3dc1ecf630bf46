"""The tokenizers of foreign checkpoints, as transformers lays them out (open_clip's folders hold the same files)."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from chiasm.data.tokenizer import TextTransform, Tokenizer
from chiasm.errors import CheckpointError
from chiasm.weights import sentencepiece
from chiasm.weights.files import read_json_if_present, write_json

_CLIP_START, _CLIP_END = "<|startoftext|>", "<|endoftext|>"
# The marks, contractions, runs of letters, single digits, runs of anything else (CLIP's code, simple_tokenizer.py).
_CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def read_tokenizer(folder: Path, context: int, vocabulary: int) -> Tokenizer:
    """The tokenizer of a folder: `tokenizer.json`, CLIP's `vocab.json` and `merges.txt`, or SigLIP's `spiece.model`.

    context, vocabulary: the model's. Texts are cut where the checkpoint says, and at the model's context at the latest.
    Padding is as in `TextTransform`'s defaults, with the checkpoint's pad token.
    Raises CheckpointError where there is none, or its ids or its padding do not fit the model.
    """
    settings = read_json_if_present(folder / "tokenizer_config.json")
    for side in ("padding_side", "truncation_side"):
        if settings.get(side, "right") != "right":
            raise CheckpointError(
                f"{folder}/tokenizer_config.json: {side} is {settings[side]!r}; only 'right' is known"
            )
    backend = _backend(folder, settings)
    if backend.get_vocab_size() > vocabulary:
        raise CheckpointError(
            f"the tokenizer in {folder} has {backend.get_vocab_size()} tokens, but its model only {vocabulary}"
        )
    if _is_siglip(settings):
        backend.normalizer = _canonical(backend.normalizer, bool(settings.get("do_lower_case", True)))
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
    """The id of the mark that ends every text. Raises CheckpointError for a tokenizer that sets none."""
    marks: list[int] = tokenizer.backend.encode("").ids
    if not marks:
        raise CheckpointError("the tokenizer does not end texts with a mark, where a text tower would read them")
    return marks[-1]


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes `tokenizer.json` and a `tokenizer_config.json` that has transformers read it as it stands.

    The attention mask is not among the model's inputs: SigLIP sees its padding, and CLIP cannot.
    Raises CheckpointError where a model that sees its padding pads with an ordinary token: transformers would then
    take that token out of texts too.
    """
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.no_truncation()  # the length stands in the settings; one caller may want another
    marks = [backend.id_to_token(one) for one in backend.encode("").ids]
    special = {at: token.content for at, token in backend.get_added_tokens_decoder().items() if token.special}
    pad = special.get(tokenizer.rules.pad_id)
    if pad is None and (tokenizer.rules.padding == "context" or not marks):
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
        "pad_token": marks[-1] if pad is None else pad,  # a causal model does not see what stands behind the end
    }
    if marks:
        settings["eos_token"] = marks[-1]
    if len(marks) > 1:
        settings["bos_token"] = marks[0]
    write_json(folder / "tokenizer_config.json", settings)


def _backend(folder: Path, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    if (folder / "tokenizer.json").exists():
        return Tokenizer.load(folder, TextTransform()).backend
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        return _clip_bpe(folder)
    if (folder / "spiece.model").exists():
        return sentencepiece.read(folder / "spiece.model", end=_content(settings.get("eos_token")) or "</s>")
    raise CheckpointError(
        f"{folder} has no tokenizer; expected tokenizer.json, vocab.json with merges.txt, or spiece.model"
    )


def _clip_bpe(folder: Path) -> tokenizers.Tokenizer:
    """CLIP's byte pairs: lower case, white space only parts words, words end in "</w>"."""
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    pairs = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
    if lost := [mark for mark in (_CLIP_START, _CLIP_END) if mark not in vocabulary]:
        raise CheckpointError(f"{folder / 'vocab.json'} lacks {' and '.join(lost)}: it is not CLIP's vocabulary")
    try:
        bpe = models.BPE(
            vocabulary, [(left, right) for left, right in pairs], end_of_word_suffix="</w>", unk_token=_CLIP_END
        )
    except ValueError as error:
        raise CheckpointError(f"{folder / 'merges.txt'} does not fit vocab.json: {error}") from error
    backend = tokenizers.Tokenizer(bpe)
    backend.add_special_tokens([_CLIP_START, _CLIP_END])
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace("</w>", " "), decoders.Strip(" ", 0, 1)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{_CLIP_START} $A {_CLIP_END}",
        special_tokens=[(mark, vocabulary[mark]) for mark in (_CLIP_START, _CLIP_END)],
    )
    return backend


def _is_siglip(settings: Mapping[str, Any]) -> bool:
    return str(settings.get("tokenizer_class", "")).removesuffix("Fast") == "SiglipTokenizer"


def _canonical(then: normalizers.Normalizer | None, lower: bool) -> normalizers.Normalizer:
    """SigLIP's texts (big_vision's prompt_engineering.py): lower case, no ASCII punctuation, single spaces.

    Files that say so themselves lose nothing: to do it twice is to do it once.
    """
    punctuation = "[" + "".join(f"\\{one}" for one in string.punctuation) + "]"
    steps: list[normalizers.Normalizer] = [normalizers.Lowercase()] if lower else []
    steps += [
        normalizers.Replace(Regex(punctuation), ""),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    return normalizers.Sequence(steps if then is None else [*steps, then])


def _pad_id(folder: Path, settings: Mapping[str, Any], backend: tokenizers.Tokenizer) -> int:
    special = read_json_if_present(folder / "special_tokens_map.json")
    token = _content(settings.get("pad_token")) or _content(special.get("pad_token"))
    if token is None and backend.padding is not None:
        token = backend.padding["pad_token"]
    if token is None and _is_siglip(settings):
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
    """A token, which the files give as itself or as a mapping with its content."""
    return token.get("content") if isinstance(token, Mapping) else token
