"""Check a recipe and its data before training, for what would stop the run or spoil its result.

chiasm doctor clip/scenes
chiasm doctor mine.yaml data.root=DATA --all --out doctor.html --json doctor.json

The exit status is 1 where there are errors."""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a recipe file, or the name of one that chiasm ships (chiasm ls recipes)")
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="entries of the recipe to change")
    much = parser.add_mutually_exclusive_group()
    much.add_argument(
        "--sample", type=int, default=2000, help="samples read of each data set, evenly spread (default: 2000)"
    )
    much.add_argument("--all", action="store_true", help="read every sample")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the findings as JSON")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write an HTML page with the images concerned")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from chiasm.diagnosis.report import render, write_json, write_page
    from chiasm.diagnosis.run import diagnose
    from chiasm.errors import RecipeError
    from chiasm.experiment.recipe import load_recipe

    if options.sample < 1:
        raise RecipeError(f"--sample must be at least 1, not {options.sample}")
    console = Console()
    diagnosis = diagnose(
        load_recipe(options.recipe, options.overrides), None if options.all else options.sample, console
    )
    for line in render(diagnosis):
        console.print(line, soft_wrap=True)
    if options.json is not None:
        write_json(diagnosis, options.json)
    if options.out is not None:
        file = write_page(diagnosis, options.out)
        console.print(f"page: {file.resolve().as_uri()}", highlight=False, markup=False, soft_wrap=True)
    return 0 if diagnosis.sound else 1
