"""A text histogram for a terminal, one line a bin."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_WIDTH = 32  # characters of the longest bar


def histogram(values: NDArray[np.int_], bins: int = 8, limit: int | None = None) -> tuple[str, ...]:
    """Counts of whole numbers in equal bins, a line each. limit: bins that reach beyond it are marked."""
    low, high = int(values.min()), int(values.max())
    step = max(1, -(-(high - low + 1) // bins))
    edges = np.arange(low, high + step + 1, step)
    counts, _ = np.histogram(values, edges)
    digits, most = len(str(int(edges[-1]))), max(1, int(counts.max()))
    lines = []
    for first, end, count in zip(edges, edges[1:], counts, strict=False):
        last = min(int(end) - 1, high)
        eighths = round(int(count) / most * _WIDTH * 8)
        bar = _EIGHTHS[8] * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
        beyond = "  beyond the limit" if limit is not None and count and last > limit else ""
        lines.append(f"{int(first):>{digits}}-{last:<{digits}} {bar or ('▏' if count else '')} {count:,}{beyond}")
    return tuple(lines)
