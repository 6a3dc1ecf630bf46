"""Finding the contracts of a kind of choice, and running them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from chiasm.additions import defined_in, import_named
from chiasm.config import Component, module_names, parse
from chiasm.errors import ChiasmError, ContractError, MissingExtra

C = TypeVar("C", bound=Component)
S = TypeVar("S")

_PACKAGE = "chiasm.contracts"


@dataclass(frozen=True)
class Trial(Generic[S]):
    """What a contract is run on. subject: a class that a recipe can choose, or the file of a recipe.

    folder: empty, for what the contract writes.
    """

    subject: S
    folder: Path


Contract = Callable[[Trial[Any]], None]


@dataclass(frozen=True)
class Outcome:
    """One contract on one subject. problem: what is broken, in a sentence; "" where the promise is kept."""

    subject: str
    promise: str
    problem: str = ""


def require(kept: bool, problem: str) -> None:
    """Raises ContractError with that sentence unless the promise is kept."""
    if not kept:
        raise ContractError(problem)


def instance(trial: Trial[type[C]]) -> C:
    """A choice built from its own `example`, as a recipe would build it. Raises ContractError where that fails."""
    kind = trial.subject
    require(is_dataclass(kind), f"the class {kind.__name__} must be decorated with @dataclass(frozen=True)")
    name, entries = kind.chosen_name(), kind.example(trial.folder)
    require(isinstance(entries, Mapping), f"its example() gives {entries!r}, which is no mapping of entries")
    try:
        return parse(kind.base, {kind.key: name, **entries}, name)  # type: ignore[return-value]  # of that kind
    except MissingExtra:
        raise
    except ChiasmError as error:
        raise ContractError(f"its example() gives no {kind.__name__}: {error}") from error


def contracts_of(kind: type[Component]) -> Iterator[Contract]:
    """The contracts of every choice, then those of this kind."""
    for name in module_names(_PACKAGE):
        module = importlib.import_module(f"{_PACKAGE}.{name}")
        if issubclass(kind, getattr(module, "BASE", ())):
            yield from functions_of(module)


def functions_of(module: ModuleType) -> Iterator[Contract]:
    """The public functions that a module itself defines, in the order in which it does."""
    for name, function in vars(module).items():
        if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_"):
            yield function


def choices_in(package: str) -> list[type[Component]]:
    """All choices that a package and its modules define, of whatever kind. Raises RecipeError for what cannot be
    imported, naming it."""
    return [kind for kind in _components_in(package) if not inspect.isabstract(kind)]


def unfinished_in(package: str) -> list[str]:
    """Why other classes of a package are no choices: "Squares leaves __len__ abstract"."""
    found = []
    for kind in _components_in(package):
        if inspect.isabstract(kind):
            members = inspect.getmembers(kind)
            names = [name for name, member in members if getattr(member, "__isabstractmethod__", False)]
            found.append(f"{kind.__name__} leaves {', '.join(names)} abstract")
    return found


def recipes_in(package: str) -> list[Path]:
    """The recipes that a package brings, in its folder `recipes`."""
    root = import_named(package, "PACKAGE")
    return [
        file for folder in getattr(root, "__path__", ()) for file in sorted((Path(folder) / "recipes").rglob("*.yaml"))
    ]


def outcomes(kind: type[Component]) -> Iterator[Outcome]:
    """The contracts of a choice, each run in an empty folder."""
    for contract in contracts_of(kind):
        yield _outcome(contract, kind, f"{kind.key}: {kind.chosen_name()}")


def recipe_outcomes(file: Path) -> Iterator[Outcome]:
    """The contracts of a recipe, each run in an empty folder."""
    for contract in functions_of(importlib.import_module(f"{_PACKAGE}.recipes")):
        yield _outcome(contract, file, f"recipe: {file.stem}")


def _outcome(contract: Contract, subject: object, name: str) -> Outcome:
    """One contract, run in an empty folder. What it raises, of whatever kind, is the problem."""
    promise = " ".join((contract.__doc__ or contract.__name__).partition("\n\n")[0].split())
    with tempfile.TemporaryDirectory(prefix="chiasm-check-") as folder:
        try:
            contract(Trial(subject, Path(folder)))
        except ChiasmError as error:
            return Outcome(name, promise, str(error))
        except Exception as error:  # noqa: BLE001  # code under test may raise anything; that is a result, and it is reported
            frames = traceback.extract_tb(error.__traceback__)
            own = getattr(sys.modules.get(getattr(subject, "__module__", "")), "__file__", None)
            at = ([frame for frame in frames if frame.filename == own] or frames)[-1]
            reason = " ".join(str(error).split()) or "no reason given"
            return Outcome(name, promise, f"{type(error).__name__}: {reason} ({at.filename}:{at.lineno})")
    return Outcome(name, promise)


def _modules(package: str) -> Iterator[ModuleType]:
    root = import_named(package, "PACKAGE")
    yield root
    for found in pkgutil.walk_packages(getattr(root, "__path__", ()), f"{package}."):
        yield import_named(found.name, "PACKAGE")


def _components_in(package: str) -> list[type[Component]]:
    """The classes of a kind that a package of chiasm holds."""
    return [kind for module in _modules(package) for kind in defined_in(module, Component) if hasattr(kind, "base")]
