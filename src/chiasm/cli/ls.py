"""List what there is: models, recipes, sources, tasks.

chiasm ls models"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from rich.table import Table

from chiasm.config import Component


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=sorted(_LISTS), help="what to list")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    Console().print(_LISTS[options.what]())
    return 0


def _models() -> Table:
    """Each family with its verbs, and each of its sizes with its parameters, counted on the meta device."""
    from chiasm.models.model import ModelConfig, verbs

    table = Table("family", "size", "parameters", "verbs", "paper", box=None)
    for family in ModelConfig.names():
        kind = ModelConfig.choose(family)
        for size, config in kind.sizes().items():
            table.add_row(family, size, f"{config.parameters():,}", ", ".join(verbs(config.model())), _about(kind))
    return table


def _recipes() -> Table:
    from chiasm.recipe import shipped_recipes

    table = Table("recipe", "what it does", box=None)
    for name, file in shipped_recipes().items():
        table.add_row(name, file.read_text(encoding="utf-8").splitlines()[0].lstrip("# "))
    return table


def _components(base: Callable[[], type[Component]]) -> Callable[[], Table]:
    def listed() -> Table:
        kind = base()
        table = Table(kind.key, "what it is", box=None)
        for name in kind.names():
            table.add_row(name, _about(kind.choose(name)))
        return table

    return listed


def _about(kind: type) -> str:
    """The first line of the module that defines a component."""
    import sys

    return (sys.modules[kind.__module__].__doc__ or "").strip().splitlines()[0]


def _sources() -> type[Component]:
    from chiasm.data.source import Source

    return Source


def _tasks() -> type[Component]:
    from chiasm.evaluation.task import Task

    return Task


_LISTS: dict[str, Callable[[], Table]] = {
    "models": _models,
    "recipes": _recipes,
    "sources": _components(_sources),
    "tasks": _components(_tasks),
}
