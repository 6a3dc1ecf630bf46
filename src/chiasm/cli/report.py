"""Write one HTML page that compares runs, finished or not: scores, training curves, recipes.

chiasm report runs/clip-scenes runs/siglip-scenes --out report.html"""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs, finished or not")
    parser.add_argument("--out", type=Path, help="the page (default: report.html in the first run's folder)")
    parser.add_argument("--title", help="the page's title")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from chiasm.evaluation.report import write_report

    file = write_report(options.runs, options.out or options.runs[0] / "report.html", title=options.title)
    Console().print(f"report: {file.resolve().as_uri()}", highlight=False, markup=False, soft_wrap=True)
    return 0
