"""BLEU (Papineni et al. 2002), as pycocoevalcap has it: orders 1 to 4, the closest reference length, and for the
corpus the n-gram counts of all items together.

The 1e-15 and 1e-9 that keep quotients finite are its own; a caption without a right n-gram therefore gets not 0 but
next to it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chiasm.evaluation.metrics.captions import TokenizedCaptions

ORDERS = 4


def counts(captions: TokenizedCaptions) -> NDArray[np.float64]:
    """(I, 10) what BLEU is made of, item by item: right n-grams of orders 1 to 4, given ones, candidate and reference
    length. Their sums over items give the corpus's BLEU."""
    items = len(captions)
    given_I = captions.texts.words.lengths_C[:items]
    given_IN = np.maximum(given_I[:, None] - np.arange(ORDERS), 0)
    columns = (_right(captions), given_IN, given_I[:, None], _closest_lengths(captions)[:, None])
    return np.concatenate(columns, axis=1, dtype=np.float64)


def bleu(counts_X10: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 4) BLEU-1 to BLEU-4 of the counts of an item, or of those of several items summed."""
    right, given, length, wanted = np.split(counts_X10, [ORDERS, 2 * ORDERS, 2 * ORDERS + 1], axis=-1)
    precision = np.cumprod((right + 1e-15) / (given + 1e-9), axis=-1) ** (1 / np.arange(1, ORDERS + 1))
    ratio = (length + 1e-15) / (wanted + 1e-9)
    with np.errstate(over="ignore"):
        return precision * np.exp(np.minimum(1 - 1 / ratio, 0))


def _right(captions: TokenizedCaptions) -> NDArray[np.float64]:
    """(I, 4) how many n-grams of each candidate are right; each as often as the one reference that has it most often.

    References are followed only where they have what the candidate has: an n-gram that is not there is not looked for
    one word longer. Ids of n-grams are each item's own.
    """
    words, items = captions.texts.words, len(captions)
    given = int(words.lengths_C[:items].sum())
    here_T = np.arange(len(words.id_T))
    c_T, r_T = here_T[:given], here_T[given:]  # where an n-gram begins
    c_id_T, r_id_T = words.text_T[:given], captions.item_C[words.text_T[given:]]
    found: list[NDArray[np.float64]] = []
    for order in range(ORDERS):
        c_in, r_in = words.left_T[c_T] > order, words.left_T[r_T] > order
        c_T, r_T = c_T[c_in], r_T[r_in]
        keys_T = c_id_T[c_in] * words.kinds + words.id_T[c_T + order]
        keys_G, first_G, c_id_T, count_G = np.unique(keys_T, return_index=True, return_inverse=True, return_counts=True)
        if len(keys_G) == 0:
            found.append(np.zeros(items))
            r_T, r_id_T = r_T[:0], r_id_T[:0]
            continue
        wanted_T = r_id_T[r_in] * words.kinds + words.id_T[r_T + order]
        at_T = np.searchsorted(keys_G, wanted_T).clip(max=len(keys_G) - 1)
        same = keys_G[at_T] == wanted_T
        r_T, r_id_T = r_T[same], at_T[same]
        in_one, times = np.unique(words.text_T[r_T] * len(keys_G) + r_id_T, return_counts=True)
        most_G = np.zeros(len(keys_G), np.int64)
        np.maximum.at(most_G, in_one % len(keys_G), times)
        clipped_I = np.bincount(words.text_T[c_T[first_G]], np.minimum(count_G, most_G), items)
        found.append(clipped_I.astype(np.float64))
    return np.stack(found, axis=1)


def _closest_lengths(captions: TokenizedCaptions) -> NDArray[np.int64]:
    """(I,) the reference length nearest to the candidate's; of two as near, the shorter."""
    lengths_C, items = captions.texts.words.lengths_C, len(captions)
    given_R, lengths_R = lengths_C[captions.item_C[items:]], lengths_C[items:]
    more = int(lengths_R.max()) + 1
    nearest_I = np.minimum.reduceat(np.abs(lengths_R - given_R) * more + lengths_R, captions.firsts_I)
    return nearest_I % more
