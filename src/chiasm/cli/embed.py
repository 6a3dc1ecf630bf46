"""Write the embeddings of images and captions to memory-mapped .npy files; resumes where it was stopped.

chiasm embed runs/clip-scenes scenes count=1000 --out features
chiasm embed runs/clip-scenes photos/ --out features --tokens --dtype float16"""

from __future__ import annotations

import argparse
from pathlib import Path

from chiasm.cli._precision import add_precision


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a run's folder, a checkpoint's, or the name of one on the Hub (OWNER/NAME)")
    parser.add_argument(
        "what", help="a source (chiasm ls sources), a file of its entries, a recipe, or an image folder"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="entries of the source or recipe")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument(
        "--what",
        dest="parts",
        choices=("images", "texts", "both"),
        default="both",
        help="what is embedded (default: both)",
    )
    parser.add_argument("--tokens", action="store_true", help="the towers' outputs before pooling, one row per token")
    parser.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32", help="dtype of the files (default: float32)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add_precision(parser)


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from chiasm.cli._source import source_of
    from chiasm.serving.embedding import SKIPPED, embed
    from chiasm.weights import load

    source = source_of(options.what, options.overrides)
    model = load(options.model, options.device, precision=options.precision)
    embedded = embed(
        model,
        source,
        options.out,
        what=options.parts,
        tokens=options.tokens,
        dtype=options.dtype,
        about=options.model,
    )
    console = Console()
    for name, count in embedded.rows.items():
        console.print(f"{options.out / name}.npy: {count:,} rows", highlight=False, markup=False, soft_wrap=True)
    if embedded.skipped:
        line = f"{embedded.skipped:,} could not be read; {options.out / SKIPPED} says which, and why"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0
