"""CIDEr-D (Vedantam et al. 2015, arXiv:1411.5726), which is what pycocoevalcap calls CIDEr: n-grams up to 4, sigma 6.

How common an n-gram is (its document frequency) is counted on the references of the very items that are scored, so
figures depend on the set: those of other sets, or of a part of one, may not be compared. With one item all are 0."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chiasm.evaluation.metrics.captions import TokenIds, TokenizedCaptions

ORDERS, SIGMA = 4, 6.0


def cider(captions: TokenizedCaptions) -> NDArray[np.float64]:
    """(I,) CIDEr-D, 0 to 10; the corpus's is the mean. Papers print 100 times as much, so that 1 is shown as 100."""
    items, words = len(captions), captions.texts.words
    # As in the original, a text's length is the number of its bigrams, so none and one word are as long.
    length_C = np.maximum(words.lengths_C - 1, 0)
    penalty_R = np.exp(-((length_C[captions.item_C[items:]] - length_C[items:]) ** 2) / (2 * SIGMA**2))
    similar_R = sum((_similar(captions, grams) for grams in _grams(words)), np.zeros(len(penalty_R)))
    return 10 / ORDERS * np.add.reduceat(similar_R * penalty_R, captions.firsts_I) / captions.counts_I


@dataclass(frozen=True)
class _Grams:
    """The n-grams of one order: each once a text, by text and then by id. kinds: ids go from 0 to kinds - 1."""

    text_G: NDArray[np.int64]
    id_G: NDArray[np.int64]
    count_G: NDArray[np.int64]
    kinds: int


def _grams(words: TokenIds) -> list[_Grams]:
    at_T, id_T, kinds = np.arange(len(words.id_T)), words.id_T, words.kinds  # where an n-gram begins, and which it is
    found = []
    for order in range(ORDERS):
        if order:  # an n-gram is the one that is a word shorter, and one word more
            inside_T = words.left_T[at_T] > order
            at_T, id_T = at_T[inside_T], id_T[inside_T]
            keys, id_T = np.unique(id_T * words.kinds + words.id_T[at_T + order], return_inverse=True)
            kinds = max(1, len(keys))
        keys_G, count_G = np.unique(words.text_T[at_T] * kinds + id_T, return_counts=True)
        found.append(_Grams(keys_G // kinds, keys_G % kinds, count_G, kinds))
    return found


def _similar(captions: TokenizedCaptions, grams: _Grams) -> NDArray[np.float64]:
    """(R,) how similar each reference is to its item's candidate by n-grams of one order, 0 to 1."""
    items, texts = len(captions), len(captions.item_C)
    split = int(np.searchsorted(grams.text_G, items))  # candidates' n-grams stand before it
    key_G = captions.item_C[grams.text_G] * grams.kinds + grams.id_G
    referred = np.sort(key_G[split:])
    referred = referred[np.diff(referred, prepend=-1) > 0]  # several references of an item count once
    seen_G = np.bincount(referred % grams.kinds, minlength=grams.kinds)
    weight_G = grams.count_G * (np.log(items) - np.log(np.maximum(seen_G, 1)))[grams.id_G]
    norm_C = np.sqrt(np.bincount(grams.text_G, weight_G**2, texts))
    if split == 0:
        return np.zeros(texts - items)
    at_G = np.searchsorted(key_G[:split], key_G[split:]).clip(max=split - 1)
    both = key_G[at_G] == key_G[split:]
    wanted = weight_G[split:][both]
    product = np.minimum(weight_G[at_G[both]], wanted) * wanted
    dot_R = np.bincount(grams.text_G[split:][both] - items, product, texts - items).astype(
        np.float64
    )  # whole numbers if there are none
    norms_R = norm_C[captions.item_C[items:]] * norm_C[items:]
    return np.divide(dot_R, norms_R, np.zeros_like(dot_R), where=norms_R > 0)
