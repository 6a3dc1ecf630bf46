"""What was found: how bad it is, where, why it matters, and how to mend it."""

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

    name: where it is, "training 17 (dog.jpg)". told: what is the matter with it. pictures: for the page.
    """

    name: str
    told: str = ""
    pictures: tuple[Image, ...] = ()


@dataclass
class FlaggedRows:
    """The first few rows of a kind, and how many there are of it."""

    count: int = 0
    kept: list[FlaggedRow] = field(default_factory=list)

    def add(self, name: str, told: str = "", pictures: tuple[Image, ...] = ()) -> None:
        self.count += 1
        if len(self.kept) < KEPT:
            self.kept.append(FlaggedRow(name, told, pictures))


@dataclass(frozen=True)
class Finding:
    """check: which one found it. title: what was found. why: what comes of it. mend: what to do.

    count, of: how many samples (or captions, ...) of how many that were looked at; 0 where nothing is counted.
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
        rows = [{"name": row.name, "told": row.told} for row in self.rows]
        plain = {key: getattr(self, key) for key in ("check", "severity", "title", "why", "mend", "count", "of")}
        return {**plain, "rows": rows, "figures": dict(self.figures), "lines": list(self.lines)}


@dataclass(frozen=True)
class Coverage:
    """How much of a set was read. name: "training", or the tasks that ask about it."""

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
        read = [{"name": one.name, "read": one.read, "of": one.of} for one in self.read]
        findings = [finding.entries() for finding in self.findings]
        return {"recipe": self.recipe, "read": read, "seconds": round(self.seconds, 3), "findings": findings}


def worst_first(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Errors, then warnings, then notes; within them the checks in order of their names."""
    return tuple(sorted(findings, key=lambda one: (SEVERITIES.index(one.severity), one.check)))


def share(count: int, of: int) -> str:
    """ "12 of 400 (3.0%)"."""
    return f"{count:,} of {of:,} ({count / of:.1%})" if of else f"{count:,}"
