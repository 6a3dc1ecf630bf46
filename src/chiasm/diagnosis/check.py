"""What a check is: it looks on while the data pass by, and says at the end what it found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar

from chiasm.config import Component
from chiasm.diagnosis.finding import Finding, FlaggedRow, FlaggedRows, Severity
from chiasm.diagnosis.seen import Seen
from chiasm.diagnosis.setting import Setting


class Check(Component, ABC, package="chiasm.diagnosis.checks", key="check"):
    """One thing that is looked for. Its module's name is how findings call it.

    evaluation: whether it is shown the samples of the evaluation too, which come before those of the training.
    """

    evaluation: ClassVar[bool] = False

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def see(self, seen: Seen) -> None:
        """Takes note of one sample. Memory must not grow with it by more than a few bytes."""

    @abstractmethod
    def findings(self) -> Iterator[Finding]:
        """What was found, after the last sample."""

    def found(
        self,
        severity: Severity,
        title: str,
        why: str = "",
        mend: str = "",
        *,
        rows: FlaggedRows | None = None,
        count: int = 0,
        of: int = 0,
        figures: Mapping[str, float] | None = None,
        lines: tuple[str, ...] = (),
    ) -> Finding:
        """A finding of this check; `rows` are named and, unless `count` says otherwise, counted."""
        kept: tuple[FlaggedRow, ...] = tuple(rows.kept) if rows is not None else ()
        counted = count or (rows.count if rows is not None else 0)
        return Finding(self.chosen(), severity, title, why, mend, counted, of, kept, figures or {}, lines)
