"""Imports point one way along the road that data walks; a room never imports a later one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import chiasm

SOURCE = Path(chiasm.__file__).parent
ROAD = (
    "errors",
    "config",
    "data",
    "nn",
    "losses",
    "generation",
    "models",
    "adaptation",
    "weights",
    "objectives",
    "training",
    "evaluation",
    "curation",
    "serving",
    "entries",
    "recipe",
    "assembly",
    "experiment",
    "stages",
    "diagnosis",
    "cli",
)


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _imports(file: Path) -> Iterator[str]:
    """Every chiasm module that a file imports, at the top or inside a function."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "chiasm":
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("chiasm."))
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{file}: relative import"


def _files() -> list[Path]:
    return [file for file in sorted(SOURCE.rglob("*.py")) if file.parent != SOURCE or file.stem in ROAD]


@pytest.mark.parametrize("file", _files(), ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_run_along_the_road(file: Path) -> None:
    here = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    assert here in ROAD, f"{here} is not on the road"
    for module in _imports(file):
        room = _room(module)
        if room in ROAD:
            assert ROAD.index(room) <= ROAD.index(here), f"{file} imports {module}"


def test_the_walk_sees_an_import_against_the_road() -> None:
    """The guard itself: nn imports data in many places, and the walk must notice each of them."""
    seen = {(file.relative_to(SOURCE).parts[0], _room(module)) for file in _files() for module in _imports(file)}
    assert {("nn", "data"), ("models", "nn"), ("training", "models"), ("cli", "experiment")} <= seen


def test_files_fit_in_the_head() -> None:
    long = {str(file): count for file in SOURCE.rglob("*.py") if (count := file.read_text().count("\n")) > 400}
    assert not long
