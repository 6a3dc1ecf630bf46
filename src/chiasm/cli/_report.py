"""Writes the HTML report at the end of a command, where the plotting library is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from chiasm.errors import MissingExtra


def write_report_if_possible(runs: Sequence[Path], file: Path, console: Console) -> None:
    """Writes the report of the runs; without the plotting library, prints one line that says how to get it."""
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
