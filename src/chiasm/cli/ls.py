"""List models, objectives, recipes, sources or tasks, those of installed packages too.

chiasm ls models"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from rich.table import Table

from chiasm.config import Component

if TYPE_CHECKING:
    from rich.console import Group


C = TypeVar("C", bound=Component)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=sorted(_LISTS), help="what to list")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    Console().print(_LISTS[options.what]())
    return 0


def _models() -> Group:
    """Each family with its verbs and paper, and each of its sizes with its parameters, counted on the meta device."""
    from rich.console import Group
    from rich.text import Text

    from chiasm.models.model import ModelConfig, verbs

    parts: list[Text | Table] = []
    for family, kind in _choices(ModelConfig):  # type: ignore[type-abstract]  # its subclasses are wanted
        if isinstance(kind, str):
            parts += [Text(family, style="bold"), Text(kind, style="red")]
            continue
        sizes = Table(show_header=False, box=None, padding=(0, 0, 0, 4))
        sizes.add_column(min_width=16)
        sizes.add_column(min_width=15, justify="right")
        for size, config in kind.sizes().items():
            sizes.add_row(size, f"{config.parameters():,}")
        title = Text(f"{family} ({', '.join(verbs(kind.model()))})", style="bold")
        parts += [title, Text(_about(kind), style="dim"), sizes]
    return Group(*parts)


def _recipes() -> Table:
    from chiasm.experiment.entries import shipped_recipes

    table = Table("recipe", "what it does", box=None)
    for name, file in shipped_recipes().items():
        table.add_row(name, file.read_text(encoding="utf-8").splitlines()[0].lstrip("# "))
    return table


def _components(base: Callable[[], type[Component]]) -> Callable[[], Table]:
    def listed() -> Table:
        kind = base()
        table = Table(kind.key, "what it is", box=None)
        for name, choice in _choices(kind):
            table.add_row(name, choice if isinstance(choice, str) else _about(choice))
        return table

    return listed


def _choices(base: type[C]) -> Iterator[tuple[str, type[C] | str]]:
    """Each choice by its name; where an installed package cannot be imported, the reason instead."""
    from chiasm.additions import ANY, allowing
    from chiasm.errors import RecipeError

    with allowing(ANY):
        for name in base.names():
            try:
                yield name, base.choose(name, name)
            except RecipeError as error:
                yield name, str(error)


def _about(kind: type) -> str:
    """The first paragraph of the docstring of a component's module, in one line."""
    import sys

    return " ".join((sys.modules[kind.__module__].__doc__ or "").strip().split("\n\n")[0].split())


def _sources() -> type[Component]:
    from chiasm.data.source import Source

    return Source


def _tasks() -> type[Component]:
    from chiasm.evaluation.task import Task

    return Task


def _objectives() -> type[Component]:
    from chiasm.objectives.objective import ObjectiveConfig

    return ObjectiveConfig


_LISTS: dict[str, Callable[[], Group | Table]] = {
    "models": _models,
    "objectives": _components(_objectives),
    "recipes": _recipes,
    "sources": _components(_sources),
    "tasks": _components(_tasks),
}
