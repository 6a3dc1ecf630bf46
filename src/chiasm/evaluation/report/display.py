"""How numbers are written: one way for the whole report."""

from __future__ import annotations

import math
from collections.abc import Sequence

MINUS = "\N{MINUS SIGN}"  # as wide as the plus


def percent(share: float) -> str:
    """A share as a percentage without the sign: 0.6421 -> "64.2"; two digits below 1% so that a small chance shows."""
    if not math.isfinite(share):
        return "n/a"
    value = 100 * share
    return f"{value:.2f}" if 0 < abs(value) < 0.995 else f"{value:.1f}"


def points(difference: float) -> str:
    """A difference of shares in percentage points, signed: 0.051 -> "+5.1"."""
    return f"{100 * difference:+.1f}".replace("-", MINUS) if math.isfinite(difference) else "n/a"


def words_of(kind: str) -> str:
    """A kind of items as people write it: "swapped_relation" -> "swapped relation"."""
    return kind.replace("_", " ")


def compact(number: float) -> str:
    """A count at a glance: 51200 -> "51k", 2100000 -> "2.1M"."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size * 0.9995:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """47.3 -> "47 s", 95 -> "1 min 35 s", 7384 -> "2 h 3 min"."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def count(number: float) -> str:
    """51200 -> "51,200"."""
    return f"{number:,.0f}"


def listing(words: Sequence[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def number(value: float) -> str:
    """A figure of unknown kind: whole numbers in full, others to three digits."""
    return count(value) if value == round(value) else f"{value:.3g}"


def p_value(p: float) -> str:
    """0.00012 -> "<0.001", 0.0312 -> "0.031"."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def p_in_words(p: float) -> str:
    """0.00012 -> "p < 0.001", 0.0312 -> "p = 0.031"."""
    return f"p {p_value(p).replace('<', '< ')}" if p < 0.001 else f"p = {p_value(p)}"
