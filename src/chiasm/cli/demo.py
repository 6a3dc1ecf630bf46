"""Train a small CLIP and a small SigLIP on rendered scenes, compare them, and write a report.

Needs nothing but this package; takes a few minutes on two cores."""

from __future__ import annotations

import argparse
from pathlib import Path

RECIPES = ("clip/scenes", "siglip/scenes")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="entries of both recipes to change")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="where it all goes (default: runs/demo)")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from chiasm.cli._report import write_report_if_possible
    from chiasm.evaluation.table import table
    from chiasm.experiment import Experiment
    from chiasm.recipe import load_recipe

    console = Console()
    evaluations, folders = [], []
    for name in RECIPES:
        recipe = load_recipe(name, options.overrides)
        folder = options.out / recipe.name
        experiment = Experiment(recipe, folder, overwrite=True, console=console)
        if not experiment.train():
            return 130
        evaluation = experiment.evaluate()
        assert evaluation is not None
        evaluations.append(evaluation)
        folders.append(folder)
    console.print(table(evaluations))
    write_report_if_possible(folders, options.out / "report.html", console)
    return 0
