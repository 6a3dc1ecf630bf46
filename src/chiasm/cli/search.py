"""Search a folder of images by text, by image or by both; classify it zero-shot; or browse it on a web page.

chiasm search photos/ "two dogs on a beach" --model runs/clip-photos
chiasm search photos/ --like dog.jpg --top 50
chiasm search photos/ --names dog,cat,car --csv
chiasm search photos/ --serve"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chiasm.cli._precision import add_precision

if TYPE_CHECKING:
    from rich.console import Console

    from chiasm.serving.index import Changes
    from chiasm.serving.search import Finder

_SHOWN = 5  # unreadable images that are named; the others are counted


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="the folder of images, searched recursively")
    parser.add_argument("words", nargs="?", help="the query text")
    parser.add_argument("--like", type=Path, action="append", default=[], help="a query image; may be repeated")
    parser.add_argument("--names", help="zero-shot classes: a,b,c or a file with one per line")
    parser.add_argument(
        "--template", action="append", help="prompt template with {} for a class; may be repeated (default: CLIP's 80)"
    )
    parser.add_argument("--serve", action="store_true", help="serve a search page on this machine instead")
    parser.add_argument("--port", type=int, default=8123, help="port of the page; 0 takes any free one (default: 8123)")
    parser.add_argument(
        "--model",
        help="folder of a run or a checkpoint, or OWNER/NAME on the Hub (default: the one last used on this folder)",
    )
    parser.add_argument("--top", type=int, default=20, help="how many images are listed (default: 20)")
    parser.add_argument("--index", type=Path, help="where indexes are kept (default: the user's cache)")
    parser.add_argument(
        "--exact", action="store_true", help="compare every image instead of using an approximate index"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add_precision(parser, default="auto")
    written = parser.add_mutually_exclusive_group()
    written.add_argument("--json", action="store_true", help="print JSON")
    written.add_argument("--csv", action="store_true", help="print CSV")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from chiasm.evaluation.templates import OPENAI
    from chiasm.serving.index import Index, index_home
    from chiasm.serving.page import serve
    from chiasm.serving.search import EXACT_UP_TO, Finder
    from chiasm.weights import load

    _check(options)
    notes = Console(stderr=True)  # so that stdout in a pipe is nothing but the results
    home = index_home(options.folder, options.index)
    name = _model(options, home)
    given = Path(name).resolve() if Path(name).exists() else name  # found again from anywhere
    model = load(name, options.device, precision=options.precision)
    index = Index(options.folder, model, home, about=str(given))
    _tell(index.update(notes), notes)
    finder = Finder(index, sys.maxsize if options.exact else EXACT_UP_TO)
    if options.serve:
        serve(finder, options.port, options.template or OPENAI)
    elif options.names:
        _sort(finder, options)
    elif options.words or options.like:
        _find(finder, options)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Raises ChiasmError for flags that exclude each other."""
    from chiasm.errors import ChiasmError

    if not options.folder.is_dir():
        raise ChiasmError(f"there is no folder {options.folder}; give the one that holds the pictures")
    if options.names and (options.words or options.like):
        raise ChiasmError("--names sorts all pictures; ask for words or a picture in a call of its own")
    if options.serve and (options.names or options.words or options.like):
        raise ChiasmError("--serve takes its questions on the page; leave the others out")
    if options.top < 1:
        raise ChiasmError(f"--top must be at least 1, not {options.top}")


def _model(options: argparse.Namespace, home: Path) -> str:
    from chiasm.errors import ChiasmError
    from chiasm.serving.index import last_model

    name = options.model or last_model(home)
    if name is None:
        raise ChiasmError(
            f"no model has looked at {options.folder} yet; say with --model which one is to: the folder of a run "
            "(chiasm train clip/photos-pretrained-towers makes one), or that of a CLIP or SigLIP from the Hub, as "
            "`hf download laion/CLIP-ViT-B-32-laion2B-s34B-b79K --local-dir clip` fetches it"
        )
    return str(name)


def _tell(changes: Changes, notes: Console) -> None:
    from chiasm.serving.images import shown

    parts = [f"{changes.pictures:,} pictures"]
    parts += [f"{count:,} {what}" for what, count in changes.counts().items() if count]
    lines = [", ".join(parts)]
    lines += [f"  {shown(image.name)}: {shown(image.reason)}" for image in changes.unreadable[:_SHOWN]]
    if len(changes.unreadable) > _SHOWN:
        lines.append(f"  and {len(changes.unreadable) - _SHOWN:,} more")
    for line in lines:
        notes.print(line, highlight=False, markup=False, soft_wrap=True)


def _find(finder: Finder, options: argparse.Namespace) -> None:
    from chiasm.data.image import Image

    texts = [options.words] if options.words else []
    hits = finder.find(finder.query(texts, [Image(path) for path in options.like]), options.top)
    rows = [(at, hit.score, str(options.folder / hit.entry.name)) for at, hit in enumerate(hits, start=1)]
    _write(("rank", "score", "path"), rows, options)


def _sort(finder: Finder, options: argparse.Namespace) -> None:
    from rich.console import Console

    from chiasm.evaluation.templates import OPENAI
    from chiasm.serving.search import read_names

    found = finder.sort(read_names(options.names), options.template or OPENAI)
    order = found.probability_N.argsort(kind="stable")[::-1].tolist()
    rows = [
        (found.names[found.best_N[at]], float(found.probability_N[at]), str(options.folder / found.entries[at].name))
        for at in order
    ]
    if options.json:
        pictures = [{"name": name, "probability": chance, "path": path} for name, chance, path in rows]
        sys.stdout.write(json.dumps({"counts": found.counts(), "pictures": pictures}, indent=2) + "\n")
        return
    if not options.csv:
        _console().print(_table(("name", "pictures"), list(found.counts().items())))
    _write(("name", "probability", "path"), rows if options.csv else rows[: options.top], options)
    if not options.csv and len(rows) > options.top:
        Console().print(f"the {options.top:,} surest of {len(rows):,}; --csv writes all", highlight=False)


def _write(columns: tuple[str, ...], rows: Sequence[tuple[object, ...]], options: argparse.Namespace) -> None:
    from chiasm.serving.images import shown

    if options.json:
        listed = [dict(zip(columns, row, strict=True)) for row in rows]
        sys.stdout.write(json.dumps(listed, indent=2) + "\n")
    elif options.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([shown(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    else:
        _console().print(_table(columns, rows))


def _console() -> Console:
    """Where a table goes; in a pipe a path stays on one line, however long it is."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=100_000)


def _table(columns: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> object:
    from rich.table import Table
    from rich.text import Text

    from chiasm.serving.images import shown

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        numeric = name in ("rank", "score", "probability", "pictures")
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(f"{cell:.3f}" if isinstance(cell, float) else shown(str(cell))) for cell in row))
    return table
