"""Byte pairs as tiktoken stores them, by rank: the tokenizer of Qwen (`qwen.tiktoken`).

A line holds the bytes of a token, in base 64, and its rank, which is its id. Pairs merge in the order of what they
make, so merges follow from ranks."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from chiasm.errors import CheckpointError
from chiasm.weights.byte_pairs import OWN

# Contractions, words with the sign before them, single digits, signs, ends of lines, blanks (Qwen's code).
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_OTHERS = [byte for byte in range(256) if byte not in OWN]
_LETTER = {**{byte: chr(byte) for byte in OWN}, **{byte: chr(256 + index) for index, byte in enumerate(_OTHERS)}}
_BYTE = {letter: byte for byte, letter in _LETTER.items()}


def read_ranks(file: Path, specials: Sequence[str]) -> tokenizers.Tokenizer:
    """The tokenizer in a file of ranks; the special tokens come after them, in order.

    Raises CheckpointError for a file that holds something else.
    """
    try:
        pairs = [line.split() for line in file.read_bytes().splitlines() if line.strip()]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except (ValueError, binascii.Error) as error:
        raise CheckpointError(f"{file} does not hold a token and its rank in each line: {error}") from error
    if sorted(ranks.values()) != list(range(len(ranks))) or any(bytes([byte]) not in ranks for byte in range(256)):
        raise CheckpointError(f"{file} does not rank tokens from 0 on, all 256 bytes among them")
    vocabulary = {_written(token): rank for token, rank in ranks.items()}
    merges = [_halves(token, ranks, file) for token in sorted(ranks, key=ranks.__getitem__) if len(token) > 1]
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [(_written(a), _written(b)) for a, b in merges]))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([tokenizers.AddedToken(token, normalized=False, special=True) for token in specials])
    return backend


def write_ranks(backend: tokenizers.Tokenizer, specials: Sequence[str], file: Path) -> None:
    """Writes the file of ranks that makes this tokenizer. Raises CheckpointError, and writes none, where none does."""
    model = json.loads(backend.to_str())["model"]
    ranks = {token: rank for token, rank in model.get("vocab", {}).items() if token not in set(specials)}
    if any(letter not in _BYTE for token in ranks for letter in token):
        raise CheckpointError("the tokenizer's tokens are not bytes, which is what a file of ranks holds")
    lines = [
        f"{base64.b64encode(bytes(_BYTE[letter] for letter in token)).decode()} {rank}"
        for token, rank in sorted(ranks.items(), key=lambda entry: entry[1])
    ]
    file.write_text("\n".join(lines) + "\n", encoding="ascii")
    try:
        same = read_ranks(file, specials).to_str() == backend.to_str()
    except CheckpointError:
        same = False
    if not same:
        file.unlink()
        raise CheckpointError(f"no {file.name} makes this model's tokenizer: it is not one of Qwen's kind")


def _halves(token: bytes, ranks: Mapping[bytes, int], file: Path) -> tuple[bytes, bytes]:
    """The two tokens that a token is merged from: what its bytes become by all merges of lower rank."""
    parts, none = [bytes([byte]) for byte in token], len(ranks)
    while len(parts) > 2:
        costs = [ranks.get(left + right, none) for left, right in pairwise(parts)]
        cheapest = min(range(len(costs)), key=costs.__getitem__)
        if costs[cheapest] >= ranks[token]:
            raise CheckpointError(f"{file}: no merge of tokens of lower rank makes the token {token!r}")
        parts[cheapest : cheapest + 2] = [parts[cheapest] + parts[cheapest + 1]]
    return parts[0], parts[1]


def _written(token: bytes) -> str:
    return "".join(_LETTER[byte] for byte in token)
