"""Compare two evaluated runs item by item: which differences are significant, and which items changed.

chiasm compare runs/clip-scenes runs/siglip-scenes
chiasm compare runs/before runs/after --tasks probes --json difference.json"""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", type=Path, metavar="RUN_A", help="folder of an evaluated run")
    parser.add_argument("second", type=Path, metavar="RUN_B", help="folder of another run, evaluated on the same tasks")
    parser.add_argument(
        "--tasks", nargs="+", default=[], metavar="TASK", help="only these tasks (default: all that both runs have)"
    )
    parser.add_argument("--out", type=Path, help="HTML page with the changed items (default: compare.html in RUN_B)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the comparison as JSON")
    parser.add_argument("--shown", type=int, default=3, help="changed items printed per task (default: 3)")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.text import Text

    from chiasm.errors import MissingExtra
    from chiasm.evaluation.comparison import compare_evaluations
    from chiasm.evaluation.report.compared import changed_lines, difference_table, write_comparison, write_json
    from chiasm.experiment.run_folder import EVALUATION

    console = Console()
    folders = options.first / EVALUATION, options.second / EVALUATION
    comparison = compare_evaluations(*folders, options.tasks)
    console.print(difference_table(comparison))
    for line in changed_lines(comparison, options.shown):
        console.print(Text(line), soft_wrap=True)
    for reason in comparison.refused:
        console.print(Text(f"not compared: {reason}"), soft_wrap=True)
    if options.json is not None:
        write_json(comparison, options.json)
    try:
        file, missing = write_comparison(comparison, folders, options.out or options.second / "compare.html")
    except MissingExtra as error:
        console.print(Text(f"no page written: {error}"), soft_wrap=True)
        return 0
    for reason in missing:
        console.print(Text(f"without pictures: {reason}"), soft_wrap=True)
    console.print(Text(f"changed items: {file.resolve().as_uri()}"), soft_wrap=True)
    return 0
