"""Imports point one way along the road that data walks; a room never imports a later one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import chiasm
from chiasm.models.model import ModelConfig

SOURCE = Path(chiasm.__file__).parent
ROAD = (
    "errors",
    "progress",
    "additions",
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
    "experiment",
    "contracts",
    "diagnosis",
    "cli",
)

APART = {("evaluation", "weights")}  # a task and a measure know no model's format and no server; they know protocols


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
        assert (here, room) not in APART, f"{file} imports {module}, whose package it must not know"


def test_the_walk_sees_an_import_against_the_road() -> None:
    """The guard itself: nn imports data in many places, and the walk must notice each of them."""
    seen = {(file.relative_to(SOURCE).parts[0], _room(module)) for file in _files() for module in _imports(file)}
    assert {("nn", "data"), ("models", "nn"), ("training", "models"), ("cli", "experiment")} <= seen


def _families(bases: bool = True) -> dict[str, str]:
    """Modules and classes that are one family's, or some families' base: what nothing above `models/` may know.

    An objective says which kind of models it is for, and a contract what such models promise, so these know bases.
    """
    classes = {name: ModelConfig.choose(name).model() for name in ModelConfig.names()}
    shared = {
        base.__module__.rpartition(".")[2]: base.__name__
        for model in classes.values()
        for base in model.__mro__
        if base.__module__.startswith("chiasm.models.") and base.__module__ not in _FOR_ALL_FAMILIES
    }
    return {name: model.__name__ for name, model in classes.items()} | (shared if bases else {})


_FOR_ALL_FAMILIES = (
    "chiasm.models.model",
    "chiasm.models.pair_model",
    "chiasm.models.generative",
    "chiasm.models.caption_scores",
)
_ABOVE = [
    file
    for file in _files()
    if (here := file.relative_to(SOURCE).parts[0].removesuffix(".py")) in ROAD[ROAD.index("adaptation") :]
    and here != "weights"  # which knows how each family's checkpoints are written elsewhere
]


def _names_of_families(text: str, bases: bool = True) -> set[str]:
    """Families that a module imports, names, or compares a word with; docstrings and commands in help may mention any.

    A message may say "clip/scenes"; only the word alone could be branched on.
    """
    families = _families(bases)
    modules = {f"chiasm.models.{name}" for name in families}
    found: set[str] = set()
    tree = ast.parse(text)
    own = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}  # an objective may be called as a family
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in modules:
            found.add(node.module)
        elif isinstance(node, ast.ImportFrom) and node.module == "chiasm.models":
            found |= {name.name for name in node.names if name.name in families}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name in modules}
        elif isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            found |= {name} & (set(families.values()) - own)
        elif isinstance(node, ast.Compare | ast.match_case):
            inside = (part for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str))
            found |= {str(part.value) for part in inside} & set(families)
    return found


@pytest.mark.parametrize("file", _ABOVE, ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_family_is_named_above_the_models(file: Path) -> None:
    """What one family needs is a method of its model or processor. An objective may be of one kind of models."""
    here = file.relative_to(SOURCE).parts[0]
    assert not _names_of_families(file.read_text(), bases=here not in ("objectives", "contracts"))


@pytest.mark.parametrize(
    "line",
    [
        "from chiasm.models.clip import CLIP",
        "from chiasm.models import llava",
        "import chiasm.models.dual_encoder",
        "isinstance(model, LLaVA)",
        "isinstance(model, models.DualEncoder)",
        "model.config.chosen() == 'siglip'",
    ],
)
def test_the_search_finds_a_family(line: str) -> None:
    assert _names_of_families(line)


def test_files_fit_in_the_head() -> None:
    long = {str(file): count for file in SOURCE.rglob("*.py") if (count := file.read_text().count("\n")) > 400}
    assert not long
