"""Scores of columns out of the scores of their phrasings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from chiasm.evaluation.request import Failed, Response, ScoreRequest


def distinct_texts(requests: Iterable[ScoreRequest]) -> dict[str, int]:
    """Every text of the requests once, each with its index in the order in which they come."""
    columns: dict[str, int] = {}
    for request in requests:
        for phrasings in request.texts:
            for text in phrasings:
                columns.setdefault(text, len(columns))
    return columns


def columns_of(request: ScoreRequest, scores_NT: NDArray[np.float32], columns: dict[str, int]) -> Response:
    """(N, C) a request's own columns, the mean over the phrasings of each; columns: of the texts in T."""
    own = scores_NT[:, [columns[text] for phrasings in request.texts for text in phrasings]]
    if own.shape[1] != len(request.texts):
        own = group_means(own.T, request.texts).T.astype(np.float32)
    return checked(own)


def checked(scores: NDArray[np.float32]) -> Response:
    """The scores, if they are numbers."""
    return Failed("the model's scores are not numbers (NaN)") if np.isnan(scores).any() else scores


def group_means(rows_ND: NDArray[np.float32], groups: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """(C, D) means of consecutive rows, as many as each group has members."""
    sizes_C = np.array([len(group) for group in groups])
    starts_C = np.concatenate([[0], np.cumsum(sizes_C)[:-1]])
    return np.add.reduceat(rows_ND, starts_C, axis=0, dtype=np.float64) / sizes_C[:, None]
