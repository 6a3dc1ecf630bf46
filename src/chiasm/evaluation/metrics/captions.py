"""Candidate captions beside their references, as numbers: tokenized once, for all metrics that count tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from chiasm.errors import DataError
from chiasm.evaluation.metrics.tokens import prepared, taken_apart


@dataclass(frozen=True)
class TokenIds:
    """Ids of the tokens of several texts, end to end.

    id_T: from 0 to kinds - 1. text_T: which text each belongs to, rising. lengths_C: how many each text has.
    left_T: how many tokens of its text begin at each token, itself included.
    """

    id_T: NDArray[np.int64]
    lengths_C: NDArray[np.int64]
    kinds: int

    @cached_property
    def text_T(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(len(self.lengths_C)), self.lengths_C)

    @cached_property
    def left_T(self) -> NDArray[np.int64]:
        return np.repeat(np.cumsum(self.lengths_C), self.lengths_C) - np.arange(len(self.id_T))


class Texts:
    """Texts as tokens, tokenized once."""

    def __init__(self, texts: Sequence[str]) -> None:
        lines = prepared(texts)
        kinds: defaultdict[str, int] = defaultdict()
        kinds.default_factory = kinds.__len__
        self._end = kinds["\n"]  # ends every text
        words = lines[1:].replace("\n", " \n ").split(" ")
        self._kind_W = np.fromiter(map(kinds.__getitem__, words), np.int64, len(words))
        self._parts = [taken_apart(word) for word in kinds]  # the tokens of every kind of word

    @cached_property
    def tokens(self) -> TokenIds:
        """As the Stanford tokenizer makes them."""
        return _numbered(self._parts, self._kind_W, self._end)

    @cached_property
    def words(self) -> TokenIds:
        """The tokens as n-grams see them: "22 3/4" is one token of the tokenizer, but its space parts two words."""
        split = [tuple(word for token in several for word in token.split()) for several in self._parts]
        return self.tokens if split == self._parts else _numbered(split, self._kind_W, self._end)

    def joined(self) -> list[str]:
        """Each text as its tokens with spaces between them."""
        found: list[str] = []
        line: list[str] = []
        for kind in self._kind_W.tolist():
            line += self._parts[kind]
            if kind == self._end:
                found.append(" ".join(line))
                line = []
        return found


class TokenizedCaptions:
    """One candidate an item, with one or more references.

    The texts are numbered: first the I candidates, then all references, item by item. item_C: the item of each text.
    Raises DataError for an item without references, and where items and candidates differ in number.
    """

    def __init__(self, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        if len(candidates) != len(references):
            raise DataError(f"there are {len(candidates)} candidates but references for {len(references)} items")
        if not candidates:
            raise DataError("there are no captions to compare")
        if not all(references):
            raise DataError(
                f"item {[bool(several) for several in references].index(False)} has no reference; one is needed"
            )
        self.texts = Texts([*candidates, *chain.from_iterable(references)])
        self.counts_I = np.array([len(several) for several in references], np.int64)
        self.firsts_I = np.cumsum(self.counts_I) - self.counts_I  # of each item's references, among all references
        items_I = np.arange(len(candidates))
        self.item_C = np.concatenate([items_I, np.repeat(items_I, self.counts_I)])

    def __len__(self) -> int:
        return len(self.counts_I)


def medoid(texts: Sequence[str]) -> str:
    """The text that is most like all the others by the cosine of token counts; of equals, the first."""
    tokens = Texts(texts).tokens
    keys, count_G = np.unique(tokens.text_T * tokens.kinds + tokens.id_T, return_counts=True)
    text_G, id_G = np.divmod(keys, max(1, tokens.kinds))
    length_C = np.maximum(np.sqrt(np.bincount(text_G, count_G**2, len(texts))), 1)
    share_G = count_G / length_C[text_G]
    # The mean cosine to all texts is the product with their mean.
    mean = np.bincount(id_G, share_G, tokens.kinds)
    return texts[int(np.bincount(text_G, share_G * mean[id_G], len(texts)).argmax())]


def _numbered(parts: Sequence[tuple[str, ...]], kind_W: NDArray[np.int64], end: int) -> TokenIds:
    """parts: the tokens of every kind of word. kind_W: the words of all texts; `end` ends each text."""
    ids: defaultdict[str, int] = defaultdict()
    ids.default_factory = ids.__len__
    flat = np.array([ids[token] for several in parts for token in several], np.int64)
    sizes_K = np.array([len(several) for several in parts], np.int64)
    firsts_K = np.cumsum(sizes_K) - sizes_K
    sizes_W = sizes_K[kind_W]
    ends_W = np.cumsum(sizes_W)
    within_T = np.arange(ends_W[-1]) - np.repeat(ends_W - sizes_W, sizes_W)
    lengths_C = np.diff(ends_W[kind_W == end], prepend=0)
    return TokenIds(flat[np.repeat(firsts_K[kind_W], sizes_W) + within_T], lengths_C, len(ids))
