"""Training from a program: what `chiasm train` does, as a function."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from chiasm.errors import TrainingError
from chiasm.experiment.recipe import Recipe, load_recipe
from chiasm.experiment.stages import experiment
from chiasm.models.model import Model
from chiasm.training.distributed import joined


def train(
    recipe: Recipe | str | Path,
    folder: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    evaluate: bool = True,
    console: Console | None = None,
) -> Model:
    """Trains the model of a recipe and returns it; the folder holds checkpoints, metrics, scores and the report.

    recipe: one that was loaded, a file, or the name of a shipped one ("clip/scenes"). folder: `runs/<name>` by default.
    overrides: entries of the form "a.b=c". resume: continue from the newest checkpoint in the folder; overwrite: remove
    an older run first. evaluate: run the recipe's tasks at the end too. Under torchrun every process calls this; all
    but the first return their model without having evaluated it.
    Raises RecipeError for a recipe that is wrong, and TrainingError where the folder holds another run, where a loss is
    not finite, or where a signal stopped the run; `resume` continues it.
    """
    entries = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    if isinstance(recipe, Recipe) and overrides:
        raise TypeError(
            "overrides change a recipe as it is read; give its file or its name, or load_recipe(NAME, [...])"
        )
    target = Path(folder) if folder is not None else Path("runs") / entries.name
    with joined(lambda: entries.training) as ranks:
        run = experiment(entries, target, resume=resume, overwrite=overwrite, console=console, ranks=ranks)
        if not run.train():
            raise TrainingError(f"a signal stopped the run in {target}; go on with resume=True")
        if evaluate and ranks.first:
            run.evaluate()
        return run.model
