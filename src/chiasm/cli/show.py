"""Draw samples as a contact sheet: of a source, or of a recipe's training data.

chiasm show scenes
chiasm show scenes seed=7 objects=[1,2] --count 12 --out few.png
chiasm show clip/scenes"""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", help="a source (chiasm ls sources), a recipe (chiasm ls recipes), a folder of pictures")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="entries of the source or recipe")
    parser.add_argument("--count", type=int, default=24, help="how many samples (default: 24)")
    parser.add_argument("--columns", type=int, default=6, help="pictures a row (default: 6)")
    parser.add_argument("--out", type=Path, help="the PNG file (default: WHAT.png)")
    parser.add_argument("--boxes", action="store_true", help="draw the boxes with their phrases")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from chiasm.cli._source import source_of
    from chiasm.data.contact_sheet import contact_sheet
    from chiasm.errors import ChiasmError

    source = source_of(options.what, options.overrides, to_look_at=True)
    samples = [source[index] for index in range(min(options.count, len(source)))]
    file = options.out or Path(f"{options.what.replace('/', '-')}.png")
    try:
        contact_sheet(samples, columns=options.columns, boxes=options.boxes).save(file)
    except (OSError, ValueError) as error:
        raise ChiasmError(f"cannot write the picture {file}: {error}") from error
    Console().print(f"{len(samples)} samples: {file.resolve().as_uri()}", highlight=False, markup=False, soft_wrap=True)
    return 0
