"""ROUGE-L (Lin 2004), as pycocoevalcap has it: F with beta 1.2 of the longest common subsequence.

Precision and recall are each the best over the references, which need not be the same one. A text without tokens
counts as one empty token, so an empty candidate is right where a reference is empty too."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from chiasm.evaluation.metrics.captions import TokenizedCaptions

BETA = 1.2
_BITS = 63  # of a machine word that tokens of a candidate can stand for; longer candidates take Python's integers


def rouge_l(captions: TokenizedCaptions) -> NDArray[np.float64]:
    """(I,) ROUGE-L, 0 to 1; the corpus's is the mean."""
    items = len(captions)
    lengths_C = np.maximum(captions.texts.tokens.lengths_C, 1)
    common_R = _common(captions)
    precision_I = np.maximum.reduceat(common_R, captions.firsts_I) / lengths_C[:items]
    recall_I = np.maximum.reduceat(common_R / lengths_C[items:], captions.firsts_I)
    weighted_I = recall_I + BETA**2 * precision_I
    return np.divide((1 + BETA**2) * precision_I * recall_I, weighted_I, np.zeros(items), where=weighted_I > 0)


def _common(captions: TokenizedCaptions) -> NDArray[np.int64]:
    """(R,) how long the longest common subsequence of each reference and its item's candidate is.

    By rows of bits (Hyyrö 2004, "Bit-parallel LCS-length computation revisited"): a bit stands for a token of the
    candidate, and is 0 where one more token has been matched. All references take a step at once, one token a step.
    """
    lengths_C, items = captions.texts.tokens.lengths_C, len(captions)
    candidate_R = captions.item_C[items:]
    places_M, reference_M = _places(captions)
    counts_R = np.bincount(reference_M, minlength=len(candidate_R))
    firsts_R = np.cumsum(counts_R) - counts_R
    longest_first = np.argsort(-counts_R, kind="stable")  # so that the references still at it are the first ones
    ones = -1 if places_M.dtype == object else ~np.uint64(0)
    row_R = np.full(len(candidate_R), ones, places_M.dtype)
    active_S = np.searchsorted(-counts_R[longest_first], -np.arange(counts_R.max(initial=0)))  # at each step
    for step, active in enumerate(active_S.tolist()):
        row = row_R[:active]
        matched = row & places_M[firsts_R[longest_first[:active]] + step]
        row_R[:active] = (row + matched) | (row - matched)
    common_R = np.zeros(len(candidate_R), np.int64)
    lengths = lengths_C[candidate_R[longest_first]].tolist()
    common_R[longest_first] = [
        (~row & ((1 << length) - 1)).bit_count() for row, length in zip(row_R.tolist(), lengths, strict=True)
    ]
    return common_R + ((lengths_C[candidate_R] == 0) & (lengths_C[items:] == 0))


def _places(captions: TokenizedCaptions) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """For every token of a reference that its item's candidate has: where, one bit a place; and which reference."""
    tokens, items = captions.texts.tokens, len(captions)
    given = int(tokens.lengths_C[:items].sum())
    key_T = captions.item_C[tokens.text_T] * tokens.kinds + tokens.id_T
    order = np.argsort(key_T[:given], kind="stable")
    key_G, first_G = np.unique(key_T[:given][order], return_index=True)
    kind = np.uint64 if tokens.lengths_C[:items].max() <= _BITS else object
    if given == 0:
        return np.zeros(0, kind), np.zeros(0, np.int64)
    place_T = (np.repeat(tokens.lengths_C[:items], tokens.lengths_C[:items]) - tokens.left_T[:given]).astype(kind)
    places_G = np.bitwise_or.reduceat(np.left_shift(np.ones(given, kind), place_T[order]), first_G)
    at_T = np.searchsorted(key_G, key_T[given:]).clip(max=len(key_G) - 1)
    same = key_G[at_T] == key_T[given:]
    return places_G[at_T[same]], tokens.text_T[given:][same] - items
