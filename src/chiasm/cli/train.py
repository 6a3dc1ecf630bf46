"""Train the model of a recipe, evaluate it, and write a report.

chiasm train clip/scenes
chiasm train recipes/clip/scenes.yaml training.steps=500 --out runs/short
chiasm train clip/scenes --resume
torchrun --nproc-per-node 8 -m chiasm train clip/scenes"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chiasm.experiment.recipe import Recipe
    from chiasm.training.distributed import Ranks


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a recipe file, or the name of one that chiasm ships (chiasm ls recipes)")
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="entries of the recipe to change")
    parser.add_argument("--out", type=Path, help="the run's folder (default: runs/NAME)")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="resume from the newest checkpoint in the run's folder")
    start.add_argument("--overwrite", action="store_true", help="remove an older run from the folder first")


def run(options: argparse.Namespace) -> int:
    from chiasm.experiment.recipe import load_recipe
    from chiasm.training.distributed import StoppedElsewhere, joined

    def read() -> Recipe:
        return load_recipe(options.recipe, options.overrides)

    try:
        with joined(lambda: read().training) as ranks:
            return _train(ranks.together(read), options, ranks)
    except StoppedElsewhere:
        return 2


def _train(recipe: Recipe, options: argparse.Namespace, ranks: Ranks) -> int:
    from rich.console import Console

    from chiasm.cli._report import write_report_if_possible
    from chiasm.evaluation.table import table
    from chiasm.experiment.stages import experiment

    console = Console()
    folder = options.out or Path("runs") / recipe.name
    run = experiment(recipe, folder, resume=options.resume, overwrite=options.overwrite, console=console, ranks=ranks)
    if not run.train():
        return 130
    if not ranks.first:
        return 0
    console.print(f"model:  {run.checkpoint}", highlight=False, markup=False, soft_wrap=True)
    evaluation = run.evaluate()
    if evaluation is not None:
        console.print(table([evaluation], width=console.width))
        write_report_if_possible([folder], folder / "report.html", console)
    return 0
