"""CLIP's byte pairs, from the files of transformers or the archive of OpenAI's and open_clip's packages."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from chiasm.errors import CheckpointError

ARCHIVE = "bpe_simple_vocab_16e6.txt.gz"

_START, _END = "<|startoftext|>", "<|endoftext|>"
_VOCABULARY = 49_408
# Special tokens, contractions, runs of letters, single digits, runs of anything else (CLIP's simple_tokenizer.py).
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# Bytes that are letters of their own; the others are written as the letters from 256 on.
OWN = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))

_Pairs = Sequence[tuple[str, str]]


def read_files(vocabulary: Path, merges: Path) -> tokenizers.Tokenizer:
    """The tokenizer in `vocab.json` and `merges.txt`. Raises CheckpointError if they are not CLIP's."""
    ids = json.loads(vocabulary.read_text(encoding="utf-8"))
    return _tokenizer(ids, _pairs(merges.read_text(encoding="utf-8").splitlines()), merges)


def read_archive(file: Path) -> tokenizers.Tokenizer:
    """The tokenizer in OpenAI's archive of merges, which the vocabulary follows from."""
    letters = [chr(byte) for byte in OWN] + [chr(256 + index) for index in range(256 - len(OWN))]
    try:
        lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} is not CLIP's archive of merges: {error}") from error
    pairs = _pairs(lines[1:])[: _VOCABULARY - 2 * len(letters) - 2]  # the first line tells where it is from
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        *(left + right for left, right in pairs),
        _START,
        _END,
    ]
    return _tokenizer({token: id_ for id_, token in enumerate(tokens)}, pairs, file)


def _pairs(lines: Sequence[str]) -> _Pairs:
    split = [line.split() for line in lines if line.strip() and not line.startswith("#version")]
    return [(left, right) for left, right in split]


def _tokenizer(vocabulary: Mapping[str, int], pairs: _Pairs, file: Path) -> tokenizers.Tokenizer:
    """CLIP's tokenizer: texts in lower case, split at white space, and words ending in "</w>"."""
    if lost := [token for token in (_START, _END) if token not in vocabulary]:
        raise CheckpointError(f"the vocabulary beside {file} lacks {' and '.join(lost)}: it is not CLIP's")
    try:
        bpe = models.BPE(dict(vocabulary), list(pairs), end_of_word_suffix="</w>", unk_token=_END)
    except ValueError as error:
        raise CheckpointError(f"{file} does not fit the vocabulary beside it: {error}") from error
    backend = tokenizers.Tokenizer(bpe)
    backend.add_special_tokens([_START, _END])
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace("</w>", " "), decoders.Strip(" ", 0, 1)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{_START} $A {_END}", special_tokens=[(token, vocabulary[token]) for token in (_START, _END)]
    )
    return backend
