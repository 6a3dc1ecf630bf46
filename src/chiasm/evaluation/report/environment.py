"""The templates of the pages, and what they may call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chiasm.errors import MissingExtra
from chiasm.evaluation.report import display, theme

if TYPE_CHECKING:
    from jinja2 import Environment

_FOLDER = Path(__file__).parent


def make() -> Environment:
    """Raises MissingExtra without jinja2."""
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtra("jinja2", "eval", "a report") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,  # captions and names come from strangers
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    words = (display.percent, display.points, display.count, display.listing)
    environment.filters.update({word.__name__: word for word in words})
    environment.globals.update(variable=theme.variable, shape=theme.shape)
    return environment


def text(name: str) -> str:
    """A file of this folder, such as page.css."""
    return (_FOLDER / name).read_text(encoding="utf-8")
