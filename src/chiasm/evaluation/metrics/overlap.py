"""How far boxes cover each other: intersection over union (Everingham et al. 2010)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def overlap(one_A4: NDArray[np.float64], other_A4: NDArray[np.float64]) -> NDArray[np.float64]:
    """(A,) area of the intersection by area of the union, pair by pair; corners are (x0, y0, x1, y1).

    0 where a box is missing (NaN), or both have no area.
    """
    sides_A2 = np.minimum(one_A4[:, 2:], other_A4[:, 2:]) - np.maximum(one_A4[:, :2], other_A4[:, :2])
    shared_A = sides_A2.clip(min=0).prod(1)
    areas_A = sum(((each_A4[:, 2:] - each_A4[:, :2]).prod(1) for each_A4 in (one_A4, other_A4)), np.zeros(len(one_A4)))
    union_A = areas_A - shared_A
    return np.divide(shared_A, union_A, out=np.zeros(len(one_A4)), where=union_A > 0)
