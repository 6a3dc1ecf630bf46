"""CLIPScore and RefCLIPScore (Hessel et al. 2021, arXiv:2104.08718): captions judged by a model that embeds.

Published numbers come from CLIP ViT-B/32; those of another judge are figures of their own and compare with nothing
else. A judge prefers captions like those that it was trained on, and hardly sees counts and relations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PREFIX = "A photo depicts "  # before every caption, candidates' and references'
WEIGHT = 2.5


def clip_score(image_ID: NDArray[np.float64], candidate_ID: NDArray[np.float64]) -> NDArray[np.float64]:
    """(I,) 2.5 max(cos, 0) of each picture and its caption, 0 to 2.5. Rows need not have unit length."""
    return WEIGHT * np.maximum(_cosines(image_ID, candidate_ID), 0)


def ref_clip_score(
    image_ID: NDArray[np.float64],
    candidate_ID: NDArray[np.float64],
    reference_RD: NDArray[np.float64],
    counts_I: NDArray[np.int64],
) -> NDArray[np.float64]:
    """(I,) the harmonic mean of CLIPScore and of the candidate's likeness to its nearest reference, max(cos, 0).

    reference_RD: all references, item by item. counts_I: how many each item has, at least one.
    """
    seen_I = clip_score(image_ID, candidate_ID)
    cosines_R = _cosines(np.repeat(candidate_ID, counts_I, axis=0), reference_RD)
    reply_I = np.maximum(np.maximum.reduceat(cosines_R, np.cumsum(counts_I) - counts_I), 0)
    both_I = seen_I + reply_I
    return np.divide(2 * seen_I * reply_I, both_I, np.zeros_like(both_I), where=both_I > 0)


def _cosines(one_ND: NDArray[np.float64], other_ND: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths_N = np.linalg.norm(one_ND, axis=1) * np.linalg.norm(other_ND, axis=1)
    return np.einsum("nd,nd->n", one_ND, other_ND) / np.maximum(lengths_N, np.finfo(np.float64).tiny)
