"""A question on its way to a model, and what becomes of scores on their way back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chiasm.evaluation.response_cache import ResponseCache
from chiasm.evaluation.task import Failed, Request, Response


@dataclass(frozen=True)
class Item:
    """A question of a task. run: the model's own, "", or that of a baseline. journal: where its answer is kept."""

    question: Request
    responses: ResponseCache
    run: str = ""

    def keep(self, answer: Response, told: Mapping[str, Any] | None = None) -> None:
        """Records the answer; told: what was said beside it."""
        self.responses.add(self.run, self.question.key, answer, told)


def checked(scores: NDArray[np.float32]) -> Response:
    """The scores, if they are numbers."""
    return Failed("the model's scores are not numbers (NaN)") if np.isnan(scores).any() else scores


def group_means(rows_ND: NDArray[np.float32], groups: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """(C, D) means of consecutive rows, as many as each group has members."""
    sizes_C = np.array([len(group) for group in groups])
    starts_C = np.concatenate([[0], np.cumsum(sizes_C)[:-1]])
    return np.add.reduceat(rows_ND, starts_C, axis=0, dtype=np.float64) / sizes_C[:, None]
