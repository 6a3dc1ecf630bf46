"""Output of a diagnosis: for a terminal, as JSON, and as an HTML page with the pictures concerned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from chiasm.data.image import Image
from chiasm.diagnosis.finding import SEVERITIES, Coverage, Diagnosis, Finding, Severity, share
from chiasm.errors import DataError
from chiasm.evaluation.files import write_file
from chiasm.evaluation.report import environment
from chiasm.evaluation.report.display import duration
from chiasm.evaluation.report.examples import data_uri

_FOLDER = Path(__file__).parent
_MARKS: dict[Severity, tuple[str, str]] = {
    "error": ("✗", "bold red"),
    "warning": ("!", "bold yellow"),
    "note": ("·", "dim"),
}
_TERMINAL_ROWS = 3  # of each finding; JSON and the page have more


def render(diagnosis: Diagnosis) -> Iterator[RenderableType]:
    """A diagnosis for a terminal: each finding with its rows, then a table of all, and what was read."""
    for finding in diagnosis.findings:
        yield from _render_finding(finding)
    table = Table("", "check", "found", "samples", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for finding in diagnosis.findings:
        mark, style = _MARKS[finding.severity]
        counted = share(finding.count, finding.of) if finding.count else ""
        table.add_row(Text(mark, style=style), finding.check, Text(finding.title), counted)
    yield Padding(table, (1, 0, 1, 0))
    yield Text(
        f"{verdict(diagnosis)}. Read in {duration(diagnosis.seconds)}: {'; '.join(map(how_much, diagnosis.read))}."
    )


def verdict(diagnosis: Diagnosis) -> str:
    """The numbers of findings by severity: "2 errors, 1 warning, 3 notes"."""
    counts = [(len(diagnosis.of(severity)), severity) for severity in SEVERITIES]
    words = [f"{count} {severity}{'' if count == 1 else 's'}" for count, severity in counts if count]
    return ", ".join(words) or "nothing found"


def how_much(read: Coverage) -> str:
    """How much of a set was read: "2,000 of 1,000,000 samples of training, evenly spread"."""
    if read.read == read.of:
        return f"all {read.of:,} samples of {read.name}"
    return f"{read.read:,} of {read.of:,} samples of {read.name}, evenly spread"


def _render_finding(finding: Finding) -> Iterator[RenderableType]:
    mark, style = _MARKS[finding.severity]
    counted = f": {share(finding.count, finding.of)}" if finding.count else ""
    yield Text.assemble(
        (f"{mark} {finding.severity}", style), f"  {finding.check}  ", (finding.title + counted, "bold")
    )
    shown = finding.rows[: 1 if finding.severity == "note" else _TERMINAL_ROWS]
    for line in (finding.why, finding.mend):
        if line:
            yield Text(f"    {line}")
    for row in shown:
        yield Text.assemble(("    - ", "dim"), row.name, (f": {row.detail}" if row.detail else "", "dim"))
    if len(finding.rows) > len(shown):
        yield Text("      and more; --out FILE and --json FILE name some of them", style="dim")
    for line in finding.lines:
        yield Text(f"    {line}")


def write_json(diagnosis: Diagnosis, file: Path) -> None:
    """Writes the findings as JSON. Raises ChiasmError where the file cannot be written."""
    write_file(file, json.dumps(diagnosis.entries(), indent=1, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class _Card:
    """A row on the page. detail: what is wrong with the sample. images: data URIs."""

    name: str
    detail: str
    images: tuple[str, ...]


def write_page(diagnosis: Diagnosis, file: Path) -> Path:
    """Writes one self-contained HTML page; returns where it is. Raises MissingExtra without chiasm[eval]."""
    template = environment.make().from_string((_FOLDER / "doctor.html").read_text(encoding="utf-8"))
    css = environment.text("page.css") + (_FOLDER / "page.css").read_text(encoding="utf-8")
    sections = [
        (finding, [_card(row.name, row.detail, row.images) for row in finding.rows]) for finding in diagnosis.findings
    ]
    read = [how_much(coverage) for coverage in diagnosis.read]
    seconds = duration(diagnosis.seconds)
    page = template.render(
        diagnosis=diagnosis,
        sections=sections,
        css=css,
        verdict=verdict(diagnosis),
        read=read,
        seconds=seconds,
        share=share,
    )
    write_file(file, page)
    return file


def _card(name: str, detail: str, images: tuple[Image, ...]) -> _Card:
    uris = []
    for image in images:
        try:
            uris.append(data_uri(image))
        except DataError:  # what cannot be decoded is shown by its name alone
            continue
    return _Card(name, detail, tuple(uris))
