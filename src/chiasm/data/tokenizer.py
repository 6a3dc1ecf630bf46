"""Texts to token ids. Part of a checkpoint, saved with it as `tokenizer.json` (Hugging Face's format)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from chiasm.data.batch import Tokens
from chiasm.errors import CheckpointError, RecipeError

START, END, PAD = "<|startoftext|>", "<|endoftext|>", "<|pad|>"


@dataclass(frozen=True)
class TextTransform:
    """How texts become tokens.

    context: the most tokens of a text, start and end marks included; longer texts are cut, their end mark kept.
    pad_id: what fills up a row.
    padding: "longest" fills up to the longest text of the batch, so that no work is done on padding (CLIP: what stands
        after the end mark cannot be seen); "context" always to the context (SigLIP: it was trained to see the
        padding, and scores badly without it).
    """

    context: int = 77
    pad_id: int = 0
    padding: Literal["longest", "context"] = "longest"


class Tokenizer:
    """A `tokenizers.Tokenizer` with the rules of a checkpoint: where texts are cut and how they are padded."""

    def __init__(self, backend: tokenizers.Tokenizer, rules: TextTransform) -> None:
        if rules.pad_id >= backend.get_vocab_size():
            raise RecipeError(f"pad_id {rules.pad_id} lies outside of the vocabulary of {backend.get_vocab_size()}")
        self.backend = tokenizers.Tokenizer.from_str(backend.to_str())  # ours alone: cutting is set on it
        self.backend.no_padding()
        self.backend.enable_truncation(rules.context)
        self.rules = rules

    @property
    def vocabulary(self) -> int:
        """V, the number of tokens."""
        return self.backend.get_vocab_size()

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Token ids of B texts, cut and padded; every token a target."""
        rows = [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts))]
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
        longest = max([1, *(len(row) for row in rows)])
        width = self.rules.context if self.rules.padding == "context" else longest
        ids = np.full((len(rows), width), self.rules.pad_id, np.int64)  # numpy takes short lists much faster than torch
        for at, row in enumerate(rows):
            ids[at, : len(row)] = row
        return Tokens(torch.from_numpy(ids), lengths, target_BT=torch.arange(width) < lengths[:, None])

    def decode(self, ids_T: Tensor) -> str:
        """The text of token ids, without start, end and padding marks."""
        return self.backend.decode(ids_T.tolist(), skip_special_tokens=True)

    def is_cut(self, text: str) -> bool:
        """Whether the context is too short for a text."""
        return bool(self.backend.encode(text).overflowing)

    def save(self, folder: Path) -> None:
        self.backend.save(str(folder / "tokenizer.json"))

    @classmethod
    def load(cls, file: Path, rules: TextTransform) -> Tokenizer:
        """Reads a `tokenizer.json`, or the one in a folder. Raises CheckpointError where there is none."""
        return cls(load_backend(file), rules)


def load_backend(file: Path) -> tokenizers.Tokenizer:
    """A `tokenizer.json`, or the one in a folder. Raises CheckpointError where there is none."""
    file = file / "tokenizer.json" if file.is_dir() else file
    if not file.exists():
        raise CheckpointError(f"there is no tokenizer at {file}; give a tokenizer.json or a folder that holds one")
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing more precise
        raise CheckpointError(f"{file} is not a tokenizer.json that can be read: {error}") from error


def learn_tokenizer(texts: Iterable[str], vocabulary: int) -> tokenizers.Tokenizer:
    """A byte-level BPE tokenizer learned from texts, in CLIP's manner: lower case, single spaces, start and end marks.

    Byte pairs (Sennrich et al. 2015) over bytes, so that no text is unknown to it. vocabulary: at most this many
    tokens; 259 (all bytes and three marks) is the least.

    The end mark has the highest id, as in CLIP's own vocabulary: open_clip finds it by that, and transformers too where
    its id is 2.
    """
    if vocabulary < 259:
        raise RecipeError(f"a byte-level vocabulary needs at least 259 tokens (256 bytes, 3 marks), not {vocabulary}")
    backend = tokenizers.Tokenizer(models.BPE())
    spaces = [normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Strip()]
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase(), *spaces])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 2,
        special_tokens=[PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([START, END])
    marks = [(mark, backend.token_to_id(mark)) for mark in (START, END)]
    backend.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=marks)
    return backend
