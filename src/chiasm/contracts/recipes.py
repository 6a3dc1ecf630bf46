"""What every recipe that is handed on promises: it says what it does, and runs from data to checkpoint."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from chiasm.contracts.contract import Trial, require
from chiasm.errors import ContractError
from chiasm.experiment.recipe import load_recipe
from chiasm.experiment.stages import experiment
from chiasm.models import folder as model_folder

SHORT = ("training.steps=2", "training.evaluate_every=0")


def says_what_it_does(trial: Trial[Path]) -> None:
    """Its first line is a comment that says what it does, which `chiasm ls recipes` shows."""
    first = trial.subject.read_text(encoding="utf-8").partition("\n")[0]
    require(first.startswith("# ") and len(first) > 20, "its first line is no comment that says what it does")


def trains_two_steps_and_is_evaluated(trial: Trial[Path]) -> None:
    """Cut short to two steps and four samples a task it trains, is evaluated, and its checkpoint opens again."""
    tasks = range(len(load_recipe(trial.subject, SHORT).evaluation))
    recipe = load_recipe(trial.subject, [*SHORT, *(f"evaluation.{at}.limit=4" for at in tasks)])
    run = experiment(recipe, trial.folder / "run", console=Console(quiet=True))
    require(run.train(), "its training was stopped")
    evaluation = run.evaluate()
    if evaluation is not None and [result.name for result in evaluation.results] != [
        t.title for t in recipe.evaluation
    ]:
        raise ContractError("its evaluation left out a task")
    model_folder.load(run.checkpoint)
