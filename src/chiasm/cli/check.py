"""Test the models, sources, tasks, objectives and recipes of your package against chiasm's contracts.

chiasm check my_package
chiasm check my_package.my_source"""

from __future__ import annotations

import argparse
from itertools import chain


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("package", metavar="PACKAGE", help="an importable package or module; its modules are imported")
    parser.add_argument("--verbose", action="store_true", help="list the contracts that pass too")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from chiasm.contracts.contract import choices_in, outcomes, recipe_outcomes, recipes_in, unfinished_in
    from chiasm.errors import RecipeError

    console = Console(soft_wrap=True, highlight=False)
    kinds, files = choices_in(options.package), recipes_in(options.package)
    if not kinds and not files:
        abstract = "".join(f"; {reason}" for reason in unfinished_in(options.package))
        raise RecipeError(
            f"{options.package} defines no choice of a recipe, such as a Source, and has no recipes{abstract}"
        )
    kept = broken = 0
    last = ("", "")
    for found in chain(*map(outcomes, kinds), *map(recipe_outcomes, files)):
        kept, broken = kept + (not found.problem), broken + bool(found.problem)
        if found.problem:
            again, last = (found.subject, found.problem) == last, (found.subject, found.problem)
            problem = "as above" if again else found.problem
            console.print(f"broken  {found.subject}: {found.promise}\n        {problem}", markup=False)
        elif options.verbose:
            console.print(f"kept    {found.subject}: {found.promise}", markup=False)
    console.print(
        f"{options.package}: {len(kinds)} choices, {len(files)} recipes: {kept} promises kept, {broken} broken"
    )
    return 1 if broken else 0
