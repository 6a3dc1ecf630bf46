"""Reads a sentencepiece unigram model (Kudo and Richardson 2018, arXiv:1808.06226), such as SigLIP's `spiece.model`.

The file is a protocol buffer; of its fields we need five, so neither sentencepiece nor protobuf has to be installed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from chiasm.errors import CheckpointError

# Field numbers of sentencepiece_model.proto.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE_TEXT, _PIECE_SCORE = 1, 2
_TRAINER_MODEL_TYPE, _TRAINER_UNKNOWN_ID = 3, 40
_NORMALIZER_CHARSMAP = 2
_UNIGRAM = 1

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_SPACE = "▁"


def read(file: Path, end: str) -> tokenizers.Tokenizer:
    """A tokenizer for texts whose words begin with a space, the first one too; `end` closes every text.

    Raises CheckpointError if the file is broken, is not a unigram model, or does not know `end`.
    """
    try:
        pieces, unknown, kind, charsmap = _model(file.read_bytes())
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise CheckpointError(f"{file} is not a sentencepiece model that can be read: {error}") from error
    if kind != _UNIGRAM:
        raise CheckpointError(f"{file} is a sentencepiece model of type {kind}; only unigram models (1) are known")
    ids = {text: at for at, (text, _) in enumerate(pieces)}
    if end not in ids:
        raise CheckpointError(f"{file} has no piece {end!r} to end texts with")
    backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=unknown, byte_fallback=False))
    tidy = [normalizers.Replace(_SPACE, " "), normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    backend.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap), *tidy] if charsmap else tidy)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always")
    backend.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always")
    backend.add_special_tokens([end])
    backend.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, ids[end])])
    return backend


def _model(content: bytes) -> tuple[list[tuple[str, float]], int, int, bytes]:
    """Pieces with their log probabilities, the unknown piece's id, the type of model, the character map."""
    pieces: list[tuple[str, float]] = []
    unknown, kind, charsmap = 0, _UNIGRAM, b""  # what the format means where a field is absent
    for field, value in _fields(content):
        if field == _PIECES:
            parts = dict(_fields(_expect_bytes(value)))
            text, score = _expect_bytes(parts[_PIECE_TEXT]), _expect_bytes(parts.get(_PIECE_SCORE, bytes(4)))
            pieces.append((text.decode(), struct.unpack("<f", score)[0]))
        elif field == _TRAINER:
            settings = dict(_fields(_expect_bytes(value)))
            kind = _expect_int(settings.get(_TRAINER_MODEL_TYPE, kind))
            unknown = _expect_int(settings.get(_TRAINER_UNKNOWN_ID, unknown))
        elif field == _NORMALIZER:
            charsmap = _expect_bytes(dict(_fields(_expect_bytes(value))).get(_NORMALIZER_CHARSMAP, charsmap))
    if not pieces:
        raise ValueError("it holds no pieces")
    return pieces, unknown, kind, charsmap


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: numbers as int, everything else as its bytes; of a repeated one, each."""
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        wire = tag & 7
        if wire == _VARINT:
            value, at = _varint(content, at)
            yield tag >> 3, value
            continue
        if wire == _BYTES:
            length, at = _varint(content, at)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + length > len(content):
            raise ValueError("it ends in the middle of a field")
        yield tag >> 3, content[at : at + length]
        at += length


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, lowest first, and the place behind it."""
    value = shift = 0
    while True:
        byte = content[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if not byte & 0x80:
            return value, at


def _expect_bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number stands where a message was expected")
    return value


def _expect_int(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("a message stands where a number was expected")
    return value
