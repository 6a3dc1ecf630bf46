"""A curve of blends as people read it: a table in the terminal, and a page with a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from chiasm.evaluation.curve import Curve
from chiasm.evaluation.files import write_file
from chiasm.evaluation.report import environment, plots
from chiasm.evaluation.report.display import percent
from chiasm.evaluation.report.theme import colour, marker

_HEIGHT = 300  # pixels


def curve_table(curve: Curve) -> Table:
    """A row an alpha, the headline of each task a column; the best of each is bold."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("alpha", justify="right")
    headlines = curve.headlines()
    for name in headlines:
        table.add_column(escape(name), justify="right")
    for at, alpha in enumerate(curve.alphas):
        cells = [(percent(values[at]), values[at] == max(values)) for values in headlines.values()]
        table.add_row(f"{alpha:g}", *(f"[bold]{text}[/]" if best else text for text, best in cells))
    return table


def write_curve(curve: Curve, file: Path) -> Path:
    """Writes one self-contained page; returns where it is. Raises MissingExtra without chiasm[eval]."""
    page = (
        environment.make()
        .get_template("blend.html")
        .render(curve=curve, drawing=draw(curve), css=environment.text("page.css"))
    )
    write_file(file, page)
    return file


def draw(curve: Curve) -> plots.Drawing:
    """The headline of each task over alpha, labelled at its end."""

    def lines(axes: Any) -> None:
        headlines = curve.headlines()
        for at, values in enumerate(headlines.values()):
            axes.plot(curve.alphas, values, color=colour(at), marker=marker(at), markersize=5, linewidth=2)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.set_xlabel("alpha: share of the second model", size=11, loc="right")
        axes.grid(axis="y")
        axes.tick_params(length=0)
        axes.spines[["left"]].set_visible(False)
        top = float(axes.get_ylim()[1])
        heights = plots.apart([values[-1] / top for values in headlines.values()], least=0.13)
        for at, (name, values, y) in enumerate(zip(headlines, headlines.values(), heights, strict=True)):
            text = f"{name.split(': ')[0]}\n{percent(values[-1])}"
            axes.text(1.02, y, text, transform=axes.transAxes, color=colour(at), size=11, va="center")

    assert np.all(np.diff(curve.alphas) > 0)
    return plots.drawn(lines, plots.WIDTH, _HEIGHT, "curve")
