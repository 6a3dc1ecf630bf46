"""The findings of a diagnosis: how bad each is, where, why it matters, and how to mend it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from chiasm.data.image import Image

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")  # the worst first
KEPT = 8  # rows that are named; the others are counted


@dataclass(frozen=True)
class FlaggedRow:
    """A sample, or a pair of them, that a finding is about.

    name: where it is, "training 17 (dog.jpg)". detail: what is wrong with it. images: shown on the page.
    """

    name: str
    detail: str = ""
    images: tuple[Image, ...] = ()


@dataclass
class FlaggedRows:
    """The number of rows with one problem, the first few of them kept by name."""

    count: int = 0
    kept: list[FlaggedRow] = field(default_factory=list)

    def add(self, name: str, detail: str = "", images: tuple[Image, ...] = ()) -> None:
        self.count += 1
        if len(self.kept) < KEPT:
            self.kept.append(FlaggedRow(name, detail, images))


@dataclass(frozen=True)
class Finding:
    """One problem or remark. check: which check found it. why: its consequence. mend: what to do about it.

    title: what was found. count, of: how many samples (or captions, ...) of how many that were looked at; 0 where
        nothing is counted.
    figures: numbers to keep beside it. lines: a small drawing for the terminal.
    """

    check: str
    severity: Severity
    title: str
    why: str = ""
    mend: str = ""
    count: int = 0
    of: int = 0
    rows: tuple[FlaggedRow, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    lines: tuple[str, ...] = ()

    def entries(self) -> dict[str, Any]:
        """As plain values for JSON; pictures are left out."""
        rows = [{"name": row.name, "told": row.detail} for row in self.rows]
        plain = {key: getattr(self, key) for key in ("check", "severity", "title", "why", "mend", "count", "of")}
        return {**plain, "rows": rows, "figures": dict(self.figures), "lines": list(self.lines)}


@dataclass(frozen=True)
class Coverage:
    """How many samples of a set were read. name: "training", or the tasks that ask about it."""

    name: str
    read: int
    of: int


@dataclass(frozen=True)
class Diagnosis:
    """All findings about one recipe, the worst first."""

    recipe: str
    findings: tuple[Finding, ...]
    read: tuple[Coverage, ...]
    seconds: float

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == severity)

    @property
    def sound(self) -> bool:
        """Whether there is no error among the findings."""
        return not self.of("error")

    def entries(self) -> dict[str, Any]:
        """As plain values for JSON."""
        read = [{"name": coverage.name, "read": coverage.read, "of": coverage.of} for coverage in self.read]
        findings = [finding.entries() for finding in self.findings]
        return {"recipe": self.recipe, "read": read, "seconds": round(self.seconds, 3), "findings": findings}


def worst_first(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Errors, then warnings, then notes; within them the checks in order of their names."""
    return tuple(sorted(findings, key=lambda finding: (SEVERITIES.index(finding.severity), finding.check)))


def share(count: int, of: int) -> str:
    """A count as a share, "12 of 400 (3.0%)"; the count alone where `of` is 0."""
    return f"{count:,} of {of:,} ({count / of:.1%})" if of else f"{count:,}"
