"""Show samples of a source, a training batch, chats as a model reads them, or a checkpoint.

chiasm show scenes
chiasm show scenes seed=7 objects=[1,2] --count 12 --boxes --out few.png
chiasm show clip/scenes --batch --out batch.html
chiasm show MODEL --source llava path=rows.json --out chats.html
chiasm show runs/clip-scenes

Samples are written to a PNG file; the rest is printed. With --out page.html all of it becomes an HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from chiasm.data.processor import Processor


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        help="a source (chiasm ls sources), a recipe (chiasm ls recipes), an image folder, a run or a checkpoint",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="entries of the source or recipe to change")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--batch", action="store_true", help="the first training batch of a recipe, as the model gets it")
    how.add_argument("--source", metavar="NAME", help="samples of this source, as the model or recipe reads them")
    parser.add_argument("--count", type=int, help="how many samples (default: 24; 8 with --batch or --source)")
    parser.add_argument("--columns", type=int, default=6, help="images per row of the PNG file (default: 6)")
    parser.add_argument("--depth", type=int, default=3, help="depth of the parameter tree (default: 3)")
    parser.add_argument("--out", type=Path, help="a PNG or HTML file (default: WHAT.png for samples)")
    parser.add_argument("--boxes", action="store_true", help="draw the boxes with their phrases")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from chiasm.diagnosis.checkpoint import is_checkpoint
    from chiasm.errors import RecipeError

    if options.count is not None and options.count < 1:
        raise RecipeError(f"--count must be at least 1, not {options.count}")
    console = Console()
    if options.source is not None:
        _show_read(options, console)
    elif options.batch:
        _show_batch(options, console)
    elif is_checkpoint(Path(options.what)):
        _show_checkpoint(options, console)
    else:
        _show_samples(options, console)
    return 0


def _show_samples(options: argparse.Namespace, console: Console) -> None:
    from chiasm.cli._source import source_of
    from chiasm.data.contact_sheet import contact_sheet
    from chiasm.diagnosis.display import write_page
    from chiasm.diagnosis.shown import of_samples
    from chiasm.errors import ChiasmError

    source = source_of(options.what, options.overrides, to_look_at=True)
    samples = [source[index] for index in range(min(options.count or 24, len(source)))]
    file = options.out or Path(f"{options.what.replace('/', '-')}.png")
    if file.suffix == ".html":
        facts = {"source": {"samples": f"{len(samples)} of {len(source):,}"}}
        write_page(options.what, file, kicker="samples", samples=of_samples(samples, options.boxes), facts=facts)
    else:
        try:
            contact_sheet(samples, columns=options.columns, boxes=options.boxes).save(file)
        except (OSError, ValueError) as error:
            raise ChiasmError(f"cannot write the picture {file}: {error}") from error
    _tell(console, f"{len(samples)} samples: {file.resolve().as_uri()}")


def _show_batch(options: argparse.Namespace, console: Console) -> None:
    from chiasm.data.contact_sheet import contact_sheet
    from chiasm.diagnosis.display import render_facts, render_samples, write_page
    from chiasm.diagnosis.setting import Setting
    from chiasm.diagnosis.shown import image_of, of_batch
    from chiasm.experiment.recipe import load_recipe

    setting = Setting(load_recipe(options.what, options.overrides), evaluation=False)
    batch = of_batch(setting, options.count or 8)
    if options.out is not None and options.out.suffix != ".html":
        contact_sheet(map(image_of, batch.rows), columns=options.columns).save(options.out)
    elif options.out is not None:
        title = f"{options.what}: a training batch"
        write_page(title, options.out, kicker="chiasm show", samples=batch.rows, facts={"batch": batch.facts})
    else:
        for line in (*render_samples(batch.rows, console), *render_facts({"batch": batch.facts})):
            console.print(line)
        return
    _tell(console, f"{len(batch.rows)} samples: {options.out.resolve().as_uri()}")


def _show_read(options: argparse.Namespace, console: Console) -> None:
    from chiasm.cli._source import source_of
    from chiasm.diagnosis.display import render_samples, write_page
    from chiasm.diagnosis.shown import of_source

    rows = of_source(_processor(options.what), source_of(options.source, options.overrides), options.count or 8)
    if options.out is None:
        for line in render_samples(rows, console):
            console.print(line)
        return
    title = f"{options.source} as {options.what} reads it"
    write_page(title, options.out, kicker="chiasm show", samples=rows)
    _tell(console, f"{len(rows)} samples: {options.out.resolve().as_uri()}")


def _processor(what: str) -> Processor:
    """The processor of a model's folder, or of a recipe."""
    from chiasm.diagnosis.checkpoint import is_checkpoint
    from chiasm.experiment.assembly import build_processor
    from chiasm.experiment.recipe import load_recipe
    from chiasm.weights import load

    return load(what).processor if is_checkpoint(Path(what)) else build_processor(load_recipe(what))


def _show_checkpoint(options: argparse.Namespace, console: Console) -> None:
    from chiasm.diagnosis.checkpoint import describe
    from chiasm.diagnosis.display import render_checkpoint, write_page

    found = describe(Path(options.what))
    if options.out is None:
        for line in render_checkpoint(found, options.depth):
            console.print(line)
        return
    parts = [part for part in found.parts if part.depth <= options.depth]
    write_page(found.name, options.out, kicker="checkpoint", facts=found.facts, parts=parts, template=found.template)
    _tell(console, f"{found.name}: {options.out.resolve().as_uri()}")


def _tell(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
