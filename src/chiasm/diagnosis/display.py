"""The output of `chiasm show`, for a terminal and as an HTML page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from chiasm.diagnosis.blocks import blocks
from chiasm.diagnosis.checkpoint import Checkpoint, ModelPart
from chiasm.diagnosis.shown import ShownSample
from chiasm.diagnosis.spans import Kind
from chiasm.evaluation.files import write_file
from chiasm.evaluation.report import environment

_FOLDER = Path(__file__).parent
_STYLES: dict[Kind, str] = {"read": "", "learned": "green underline", "picture": "bold blue", "padding": "dim"}
_SMALL = 128  # pixels; smaller pictures are shown as the pixels they are
Facts = Mapping[str, Mapping[str, str]]


def render_samples(samples: Sequence[ShownSample], console: Console) -> Iterator[RenderableType]:
    """Samples for a terminal: images as colour blocks where it has colours, beside their texts, targets highlighted."""
    coloured = console.is_terminal and console.color_system in ("256", "truecolor")
    for shown in samples:
        text = Text.assemble(*((piece.text, _STYLES[piece.kind]) for piece in shown.pieces))
        about = Text.assemble((shown.key, "bold"), (f"  {shown.facts}", "dim"), "\n", text)
        grid = Table.grid(padding=(0, 2, 1, 0))
        images = [blocks(image) for image in shown.images[:2]] if coloured else []
        grid.add_row(*images, about)
        yield grid
    if any(piece.kind == "learned" for shown in samples for piece in shown.pieces):
        yield Text.assemble(("learned", _STYLES["learned"]), "  what the model is taught to say")


def render_facts(facts: Facts) -> Iterator[RenderableType]:
    """Facts for a terminal, a table for each section."""
    for section, entries in facts.items():
        yield Text(section, style="bold")
        table = Table.grid(padding=(0, 2, 0, 0))
        for name, value in entries.items():
            table.add_row(Text(f"  {name}", style="dim"), Text(value))
        yield table


def render_checkpoint(checkpoint: Checkpoint, depth: int) -> Iterator[RenderableType]:
    """A checkpoint for a terminal. depth: how deep the tree of parameters is unfolded."""
    yield from render_facts(checkpoint.facts)
    yield Text("parameters", style="bold")
    yield _tree(checkpoint.parts, depth)


def _tree(parts: Sequence[ModelPart], depth: int) -> Tree:
    root = Tree(_line(parts[0]), guide_style="dim")
    branches = [root]
    for part in parts[1:]:
        if part.depth <= depth:
            del branches[part.depth :]
            branches.append(branches[-1].add(_line(part)))
    return root


def _line(part: ModelPart) -> Text:
    return Text.assemble(part.name, (f"  {counted(part)}", "dim"))


def counted(part: ModelPart) -> str:
    """The number or shape of a part's parameters in words: "12 x 7,087,872 float32", "(768, 3072) float32"."""
    number = f"{part.parameters:,}" if not part.shape else str(part.shape)
    return f"{part.alike} x {number} {part.dtype}" if part.alike > 1 else f"{number} {part.dtype}"


@dataclass(frozen=True)
class _ImageFile:
    """An image on the page. uri: a data URI. small: shown pixel by pixel."""

    uri: str
    small: bool


def write_page(
    title: str,
    file: Path,
    *,
    kicker: str,
    samples: Sequence[ShownSample] = (),
    facts: Facts | None = None,
    parts: Sequence[ModelPart] = (),
    template: str = "",
) -> Path:
    """Writes one self-contained HTML page; returns where it is. Raises MissingExtra without chiasm[eval]."""
    made = environment.make()
    made.globals.update(counted=counted)
    page = made.from_string((_FOLDER / "show.html").read_text(encoding="utf-8")).render(
        title=title,
        kicker=kicker,
        samples=[(shown, [_image(pixels) for pixels in shown.images]) for shown in samples],
        learned=any(piece.kind == "learned" for shown in samples for piece in shown.pieces),
        facts=facts or {},
        parts=parts,
        template=template,
        css=environment.text("page.css") + (_FOLDER / "page.css").read_text(encoding="utf-8"),
    )
    write_file(file, page)
    return file


def _image(pixels_HWC: NDArray[np.uint8]) -> _ImageFile:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels_HWC).save(buffer, format="PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return _ImageFile(uri, max(pixels_HWC.shape[:2]) < _SMALL)
