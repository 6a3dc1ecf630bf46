"""Merge the adapters of a run into the weights, or export the model for transformers or the adapters for peft.

chiasm merge runs/lora --out models/tuned
chiasm merge runs/lora --out models/tuned-hf --for transformers
chiasm merge runs/lora --out adapters/tuned --for peft --base llava-hf/llava-1.5-7b-hf"""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run with adapters, or of its checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument(
        "--for",
        dest="kind",
        choices=("chiasm", "transformers", "peft"),
        default="chiasm",
        help="format: the merged model for chiasm (default) or transformers, or the adapters alone for peft",
    )
    parser.add_argument("--base", default="", help="with --for peft: the base model's name or folder for transformers")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from chiasm.adaptation.adapted import merged
    from chiasm.errors import CheckpointError
    from chiasm.models import folder as model_folder
    from chiasm.weights import load, transformers
    from chiasm.weights.adapters import save_for_transformers

    if options.out.exists() and any(options.out.iterdir()):
        raise CheckpointError(f"{options.out} already holds something; give --out another folder")
    model = load(options.run)
    if model.adaptation is None:
        raise CheckpointError(f"the model in {options.run} has no adapters, so there is nothing to merge")
    if options.kind == "peft":
        save_for_transformers(model, options.out, options.base)
    elif options.kind == "transformers":
        transformers.save(merged(model), options.out)
    else:
        card = f"# Merged\n\nThe model of `{options.run}` with its adapters merged into its weights, by chiasm.\n"
        model_folder.save(merged(model), options.out, card=card)
    Console().print(f"written:  {options.out}", highlight=False, markup=False, soft_wrap=True)
    return 0
