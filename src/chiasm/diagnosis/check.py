"""The base class of a check: it is shown every sample in turn and reports its findings after the last."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar

from chiasm.config import Component
from chiasm.diagnosis.finding import Finding, FlaggedRow, FlaggedRows, Severity
from chiasm.diagnosis.seen import Seen
from chiasm.diagnosis.setting import Setting


class Check(Component, ABC, package="chiasm.diagnosis.checks", key="check"):
    """Looks for one kind of problem. Findings name it by its module's name.

    evaluation: whether it is also shown the evaluation's samples, which come before the training samples.
    """

    evaluation: ClassVar[bool] = False

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def see(self, seen: Seen) -> None:
        """Takes note of one sample. Memory must not grow by more than a few bytes a sample."""

    @abstractmethod
    def findings(self) -> Iterator[Finding]:
        """The findings, asked for after the last sample."""

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
        """Makes a finding of this check. rows: the samples concerned, which are counted unless `count` is given."""
        kept: tuple[FlaggedRow, ...] = tuple(rows.kept) if rows is not None else ()
        counted = count or (rows.count if rows is not None else 0)
        return Finding(self.chosen(), severity, title, why, mend, counted, of, kept, figures or {}, lines)
