"""Interpolate the weights of two models of one shape, such as a pretrained and a fine-tuned one (WiSE-FT).

chiasm blend runs/photos runs/cifar-full --alpha 0.5 --out runs/blend
chiasm blend runs/photos runs/cifar-full --tasks finetune/full data.root=DATA --out runs/curve"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

_STEPS = tuple(step / 10 for step in range(11))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", type=Path, metavar="A", help="a run's folder or a checkpoint's: alpha 0")
    parser.add_argument("second", type=Path, metavar="B", help="another of the same shape: alpha 1")
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="entries of the tasks' recipe to change")
    parser.add_argument("--alpha", type=float, help="weight of B, 0 to 1, in the model that is saved")
    parser.add_argument("--tasks", metavar="RECIPE", help="evaluate the tasks of this recipe at several alphas")
    parser.add_argument(
        "--alphas", type=_shares, default=_STEPS, help="the alphas of --tasks, as in 0,0.5,1 (default: 0,0.1,...,1)"
    )
    parser.add_argument("--out", type=Path, required=True, help="output folder for the model and the curve")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")


def _shares(text: str) -> tuple[float, ...]:
    return tuple(float(word) for word in text.split(","))


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from chiasm.adaptation.blend import blend
    from chiasm.errors import CheckpointError, MissingExtra, RecipeError
    from chiasm.evaluation.curve import blend_curve, headlines
    from chiasm.evaluation.report.blended import curve_table, write_curve
    from chiasm.evaluation.request_runner import RunOptions
    from chiasm.evaluation.run import check
    from chiasm.experiment.recipe import load_tasks
    from chiasm.experiment.run_folder import CHECKPOINT
    from chiasm.models import folder as model_folder
    from chiasm.weights import load

    console = Console()

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    if options.alpha is None and options.tasks is None:
        raise RecipeError(
            "say with --alpha which blend to save, or with --tasks RECIPE what to ask blends along the way"
        )
    if wrong := [alpha for alpha in (*options.alphas, options.alpha or 0) if not 0 <= alpha <= 1]:
        raise RecipeError(f"alpha is the share of the second model, 0 to 1, not {wrong[0]:g}")
    target = options.out / CHECKPOINT
    if options.alpha is not None and target.exists():
        raise CheckpointError(f"{target} already holds a model; give --out another folder")
    tasks = load_tasks(options.tasks, options.overrides).evaluation if options.tasks else ()
    first, second = load(options.first, options.device), load(options.second, options.device)
    check(second, tasks, RunOptions(load=load))
    if options.alpha is not None:
        share = f"(1 - {options.alpha:g}) * `{options.first}` + {options.alpha:g} * `{options.second}`"
        card = f"# Blend\n\nIts weights are {share}; made with chiasm.\n"
        model_folder.save(blend(first, second, options.alpha), target, card=card)
        say(f"model:  {target}")
    if not tasks:
        return 0

    def on_figures(alpha: float, figures: Mapping[str, float]) -> None:
        shown = "  ".join(f"{task} {100 * figures[name]:.1f}" for task, name in headlines(figures).items())
        say(f"alpha {alpha:g}:  {shown}")

    names = (options.first.name, options.second.name)
    curve = blend_curve(first, second, tasks, options.alphas, names, on_figures)
    curve.save(options.out)
    console.print(curve_table(curve))
    try:
        say(f"curve:  {write_curve(curve, options.out / 'blend.html').resolve().as_uri()}")
    except MissingExtra as error:
        say(f"no page written: {error}")
    return 0
