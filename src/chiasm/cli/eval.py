"""Evaluate a trained model, or one served by an OpenAI-compatible endpoint, on the tasks of a recipe.

chiasm eval runs/clip-scenes
chiasm eval openai/clip-vit-base-patch32 --tasks clip/scenes --out runs/openai-on-scenes
chiasm eval runs/clip-scenes --tasks clip/photos-pretrained-towers data.root=DATA --out runs/on-photos
chiasm eval runs/llava --processes 4
chiasm eval runs/clip-scenes --tasks llava/scenes --out runs/clip-beside-llava --leave-out-impossible
chiasm eval endpoint.yaml --tasks pope.yaml --out runs/remote --baselines constant"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from chiasm.cli._precision import add_precision

if TYPE_CHECKING:
    from chiasm.cli._workers import Workers
    from chiasm.models.model import Model
    from chiasm.weights.endpoint import Endpoint


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        help="folder of a run or a checkpoint, a name on the Hub (OWNER/NAME), or the YAML file of an endpoint",
    )
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="entries of the tasks' recipe to change")
    parser.add_argument(
        "--tasks",
        metavar="RECIPE",
        help="the recipe whose `evaluation` is run, or a file with nothing else (default: the run's own recipe)",
    )
    parser.add_argument(
        "--out", type=Path, help="output folder for responses, scores and report (default: the run's folder)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add_precision(parser)
    parser.add_argument(
        "--score-by", help="how generative models score texts: likelihood, gain or yes (default: the recipe's)"
    )
    parser.add_argument(
        "--baselines",
        nargs="*",
        choices=("constant", "blind", "shuffled"),
        default=("constant", "blind", "shuffled"),
        help="baselines beside each score (default: all); blind and shuffled each evaluate everything once more",
    )
    parser.add_argument(
        "--leave-out-impossible",
        action="store_true",
        help="skip, and list, tasks that the model cannot do (such as captioning with a CLIP), instead of stopping",
    )
    parser.add_argument(
        "--batch-tokens", type=int, default=8192, help="batch size in tokens of prompts and replies (default: 8192)"
    )
    parser.add_argument(
        "--keep-failed", action="store_true", help="do not repeat requests that failed in an earlier run"
    )
    parser.add_argument(
        "--processes", type=int, default=1, help="number of processes, each with a copy of the model (default: 1)"
    )
    parser.add_argument(
        "--share", metavar="K/N", help="evaluate only share K of N; a run without --share then computes the metrics"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from chiasm.cli._report import write_report_if_possible
    from chiasm.cli._workers import workers_of
    from chiasm.errors import RecipeError
    from chiasm.evaluation.protocol import fingerprint
    from chiasm.evaluation.request_runner import RunOptions
    from chiasm.evaluation.run import ask, evaluate
    from chiasm.evaluation.table import table
    from chiasm.experiment.recipe import load_recipe, load_tasks
    from chiasm.experiment.run_folder import EVALUATION, RECIPE
    from chiasm.weights import load

    console = Console()
    if options.batch_tokens < 1:
        raise RecipeError(f"--batch-tokens must be at least 1, not {options.batch_tokens}")
    workers = workers_of(options)
    path = Path(options.model)
    own = path / RECIPE
    if path.is_file() and not (options.tasks and options.out):
        raise RecipeError("an endpoint has no tasks and no folder of its own; give --tasks RECIPE and --out FOLDER")
    if not path.exists() and (options.tasks is None or options.out is None):
        raise RecipeError(f"there is no folder {path}; of a model on the Hub say with --tasks and --out what to do")
    if options.out is None and (options.tasks or options.overrides or options.score_by):
        raise RecipeError(
            "another evaluation than the run's own would overwrite it; say with --out where this one goes"
        )
    if options.tasks is None and not own.exists():
        raise RecipeError(f"{options.model} holds no recipe; say with --tasks RECIPE what to evaluate")
    recipe = load_tasks(options.tasks or own, options.overrides, of_checkpoint=not options.tasks)
    model = _connected(options) if path.is_file() else _loaded(options, workers)
    folder = options.out or path
    how = RunOptions(
        options.score_by or recipe.score_by, options.batch_tokens, workers.share, options.keep_failed, load
    )
    weights, baselines, progress = fingerprint(model), tuple(options.baselines), workers.shown and not options.quiet
    if workers.share.of > 1:
        with workers:
            ask(
                model,
                recipe.evaluation,
                folder / EVALUATION,
                fingerprint=weights,
                baselines=baselines,
                options=how,
                leave_out=options.leave_out_impossible,
                progress=progress,
            )
        for reason in workers.lost:
            console.print(reason, highlight=False, markup=False, soft_wrap=True)
        if not workers.ends:
            return 0
        # Failures were asked again just now.
        how = RunOptions(how.score_by, how.batch_tokens, keep_failed=not workers.lost, load=load)
    name = load_recipe(own, of_checkpoint=True).name if own.exists() else path.stem
    evaluation = evaluate(
        model,
        recipe.evaluation,
        folder / EVALUATION,
        about={"name": name, "checkpoint": str(options.model), **_precision_of(model)},
        fingerprint=weights,
        baselines=baselines,
        options=how,
        leave_out=options.leave_out_impossible,
        progress=progress,
    )
    console.print(table([evaluation], width=console.width))
    write_report_if_possible([folder], folder / "report.html", console)
    return 0


def _loaded(options: argparse.Namespace, workers: Workers) -> Model:
    from chiasm.weights import load

    return load(options.model, workers.device(options.device), precision=options.precision)


def _precision_of(model: Model | Endpoint) -> dict[str, str]:
    """The entry `precision` of the results; none for float32, or for a model on another machine."""
    from torch import nn

    dtype = next(model.parameters()).dtype if isinstance(model, nn.Module) else None
    return {} if dtype is None or str(dtype) == "torch.float32" else {"precision": str(dtype).removeprefix("torch.")}


def _connected(options: argparse.Namespace) -> Endpoint:
    from dataclasses import replace

    from chiasm.config import parse
    from chiasm.experiment.entries import read_entries
    from chiasm.weights.endpoint import EndpointSettings, connect

    if options.processes > 1 or options.share:
        from chiasm.errors import RecipeError

        raise RecipeError("one process asks an endpoint many things at once; set `concurrency` in its file instead")
    settings = parse(EndpointSettings, read_entries(Path(options.model)), options.model)
    return connect(replace(settings, score_by=options.score_by) if options.score_by else settings)
