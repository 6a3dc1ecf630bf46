"""Reads sentencepiece models: unigrams (Kudo and Richardson 2018, arXiv:1808.06226), such as SigLIP's `spiece.model`,
and byte pairs (Sennrich et al. 2015, arXiv:1508.07909), such as Gemma's `tokenizer.model`.

The file is a protocol buffer; of its fields we need few, so neither sentencepiece nor protobuf has to be installed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from chiasm.errors import CheckpointError

# Field numbers of sentencepiece_model.proto.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE_TEXT, _PIECE_SCORE, _PIECE_TYPE = 1, 2, 3
_TRAINER_MODEL_TYPE, _TRAINER_BYTE_FALLBACK, _TRAINER_UNKNOWN_ID = 3, 35, 40
_NORMALIZER_CHARSMAP, _NORMALIZER_PREFIX, _NORMALIZER_TIDY = 2, 3, 4
_UNIGRAM, _BYTE_PAIRS = 1, 2
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # types of pieces; bytes and unused ones need no care

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_SPACE = "▁"


@dataclass
class _Model:
    """The parts of a file that are read; the defaults are the format's own where a field is absent.

    prefix: texts begin with a space. tidy: other spaces are single, and none stand at the ends.
    """

    pieces: list[tuple[str, float]] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    kind: int = _UNIGRAM
    unknown: int = 0
    byte_fallback: bool = False
    charsmap: bytes = b""
    prefix: bool = True
    tidy: bool = True


def read(file: Path, end: str) -> tokenizers.Tokenizer:
    """The tokenizer in a file; `end` closes every text.

    Raises CheckpointError if the file is broken, is of another type, or does not know `end`.
    """
    try:
        model = _model(file.read_bytes())
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise CheckpointError(f"{file} is not a sentencepiece model that can be read: {error}") from error
    if model.kind not in (_UNIGRAM, _BYTE_PAIRS):
        raise CheckpointError(
            f"{file} is a sentencepiece model of type {model.kind}; only unigrams (1) and byte pairs (2) are known"
        )
    ids = {text: id_ for id_, (text, _) in enumerate(model.pieces)}
    if end not in ids:
        raise CheckpointError(f"{file} has no piece {end!r} to end texts with")
    if model.kind == _BYTE_PAIRS and (model.tidy or model.prefix) and _USER_DEFINED in model.types:
        raise CheckpointError(f"{file} tidies spaces beside pieces that its user defined, which we cannot follow")
    backend = _unigrams(model) if model.kind == _UNIGRAM else _byte_pairs(model)
    backend.add_special_tokens([end])
    backend.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, ids[end])])
    return backend


def _unigrams(model: _Model) -> tokenizers.Tokenizer:
    """A unigram tokenizer, in which every word begins with a space, the first one too."""
    backend = tokenizers.Tokenizer(models.Unigram(model.pieces, unk_id=model.unknown, byte_fallback=False))
    tidy = [normalizers.Replace(_SPACE, " "), normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    backend.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(model.charsmap), *tidy] if model.charsmap else tidy
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always")
    backend.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always")
    return backend


def _byte_pairs(model: _Model) -> tokenizers.Tokenizer:
    """A byte-pair tokenizer, whose merges are ordered by the score of the merged piece."""
    ids = {text: id_ for id_, (text, _) in enumerate(model.pieces)}
    made = [
        (score, text)
        for (text, score), kind in zip(model.pieces, model.types, strict=True)
        if kind == _NORMAL and len(text) > 1
    ]
    merges = [
        (text[:cut], text[cut:])
        for _, text in sorted(made, key=lambda scored: -scored[0])
        for cut in range(1, len(text))
        if text[:cut] in ids and text[cut:] in ids
    ]
    backend = tokenizers.Tokenizer(
        models.BPE(
            ids, merges, unk_token=model.pieces[model.unknown][0], fuse_unk=True, byte_fallback=model.byte_fallback
        )
    )
    steps: list[normalizers.Normalizer] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.tidy:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    if model.prefix:
        steps.append(normalizers.Prepend(" "))
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    backend.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    named = [(text, kind) for (text, _), kind in zip(model.pieces, model.types, strict=True)]
    backend.add_special_tokens([text for text, kind in named if kind in (_UNKNOWN, _CONTROL)])
    backend.add_tokens([AddedToken(text, normalized=False) for text, kind in named if kind == _USER_DEFINED])
    return backend


def _model(content: bytes) -> _Model:
    model = _Model()
    for number, value in _fields(content):
        if number == _PIECES:
            parts = dict(_fields(_expect_bytes(value)))
            text, score = _expect_bytes(parts[_PIECE_TEXT]), _expect_bytes(parts.get(_PIECE_SCORE, bytes(4)))
            model.pieces.append((text.decode(), struct.unpack("<f", score)[0]))
            model.types.append(_expect_int(parts.get(_PIECE_TYPE, _NORMAL)))
        elif number == _TRAINER:
            settings = dict(_fields(_expect_bytes(value)))
            model.kind = _expect_int(settings.get(_TRAINER_MODEL_TYPE, model.kind))
            model.unknown = _expect_int(settings.get(_TRAINER_UNKNOWN_ID, model.unknown))
            model.byte_fallback = bool(_expect_int(settings.get(_TRAINER_BYTE_FALLBACK, model.byte_fallback)))
        elif number == _NORMALIZER:
            settings = dict(_fields(_expect_bytes(value)))
            model.charsmap = _expect_bytes(settings.get(_NORMALIZER_CHARSMAP, model.charsmap))
            model.prefix = bool(_expect_int(settings.get(_NORMALIZER_PREFIX, model.prefix)))
            model.tidy = bool(_expect_int(settings.get(_NORMALIZER_TIDY, model.tidy)))
    if not model.pieces:
        raise ValueError("it holds no pieces")
    return model


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a message: integers as int, everything else as its bytes."""
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
    """A number in groups of seven bits, lowest first, and the offset after it."""
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
