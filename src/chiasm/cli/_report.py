"""What several commands do at their end: write a report, or say what is missing for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from chiasm.errors import MissingExtra


def write_report_if_possible(runs: Sequence[Path], file: Path, console: Console) -> None:
    """A run is not lost because the drawing library is not installed: then one line says how to get the report."""
    from chiasm.evaluation.report import write_report

    try:
        write_report(runs, file)
    except MissingExtra as error:
        console.print(
            f"no report written: {error}; then: chiasm report {' '.join(map(str, runs))}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        return
    console.print(f"report: {file.resolve().as_uri()}", highlight=False, markup=False, soft_wrap=True)
