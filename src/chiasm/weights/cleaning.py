"""Normalisers that clean texts before a foreign checkpoint's tokenizer sees them, as a part of the tokenizer."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from typing import Literal

import tokenizers
from tokenizers import Regex, normalizers

Clean = Literal["whitespace", "lower", "canonicalize"]

_PUNCTUATION = Regex("[" + "".join(f"\\{sign}" for sign in string.punctuation) + "]")
_SINGLE_SPACES = (normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip())

# SigLIP's texts (big_vision's prompt_engineering.py): no ASCII punctuation, single spaces; the case stays.
SIGLIP: Sequence[normalizers.Normalizer] = (normalizers.Replace(_PUNCTUATION, ""), *_SINGLE_SPACES)
LOWER: Sequence[normalizers.Normalizer] = (normalizers.Lowercase(),)

# open_clip's `clean`. Of ftfy, which mends broken encodings first, only the composed letters are here, and HTML is left
# as it is. Its canonical form parts words at "_", where SigLIP's joins them.
OPEN_CLIP: Mapping[Clean, Sequence[normalizers.Normalizer]] = {
    "whitespace": (normalizers.NFC(), *_SINGLE_SPACES),
    "lower": (normalizers.NFC(), *_SINGLE_SPACES, normalizers.Lowercase()),
    "canonicalize": (
        normalizers.NFC(),
        normalizers.Replace("_", " "),
        normalizers.Replace(_PUNCTUATION, ""),
        normalizers.Lowercase(),
        *_SINGLE_SPACES,
    ),
}


def clean_first(backend: tokenizers.Tokenizer, steps: Sequence[normalizers.Normalizer]) -> None:
    """Puts these steps before a tokenizer's own; one that begins with them already is left as it is."""
    own = backend.normalizer
    wanted = [_as_json(step) for step in steps]
    if _steps_of(backend)[: len(wanted)] != wanted:
        backend.normalizer = normalizers.Sequence([*steps, own] if own is not None else [*steps])


def _steps_of(backend: tokenizers.Tokenizer) -> list[object]:
    entries = json.loads(backend.to_str())["normalizer"] or {}
    return list(entries["normalizers"]) if entries.get("type") == "Sequence" else [entries]


def _as_json(step: normalizers.Normalizer) -> object:
    blank = tokenizers.Tokenizer(tokenizers.models.BPE())
    blank.normalizer = step
    return json.loads(blank.to_str())["normalizer"]
