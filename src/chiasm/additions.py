"""Classes from outside of chiasm, named in a recipe: by dotted name, or by an installed package's entry point.

`my_package.my_source` is the one class of its kind that the module defines, `my_package.my_module:MyClass` says which.
An entry point gives such a name a short one; its group is `chiasm.` and the kind's folder, such as `chiasm.sources`.

Naming a class imports its module, and importing runs code. So a module is imported only where the user named it: in a
recipe or on the command line, or by allowing its package. A checkpoint is somebody else's file: what it names is taken
from modules that the program has imported itself, or from packages that it allowed, and is an error otherwise."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from chiasm.errors import RecipeError

ANY = "*"
_DOTTED = re.compile(r"(?=.*[.:])[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(:[A-Za-z_]\w*)?")
_allowed: ContextVar[frozenset[str]] = ContextVar("allowed", default=frozenset())


@contextmanager
def allowing(*packages: str) -> Iterator[None]:
    """A context in which classes named in these packages are imported; ANY allows all, as a user's own recipe does."""
    token = _allowed.set(_allowed.get() | frozenset(packages))
    try:
        yield
    finally:
        _allowed.reset(token)


def is_dotted(name: str) -> bool:
    """Whether a name is that of a module, or of a class in one, rather than of a choice that comes with chiasm."""
    return _DOTTED.fullmatch(name) is not None


@cache
def entries_of(group: str) -> Mapping[str, tuple[str, ...]]:
    """The dotted names that installed packages offer in a group of entry points, by their short names."""
    found: dict[str, tuple[str, ...]] = {}
    for entry in entry_points(group=group):
        found[entry.name] = tuple(dict.fromkeys((*found.get(entry.name, ()), entry.value)))
    return dict(sorted(found.items()))


def find(name: str, base: type, where: str) -> type:
    """The subclass of `base` that a dotted name names.

    Raises RecipeError where the module is missing, fails to import, or defines no such class, and where it may not be
    imported here.
    """
    path, _, attribute = name.partition(":")
    module = _module(path, where)
    if attribute:
        kind = vars(module).get(attribute)
        if not (isinstance(kind, type) and issubclass(kind, base)):
            what = f"is no {base.__name__}" if kind is not None else "is not there"
            raise RecipeError(f"{where}: '{attribute}' {what} in the module {path} ({_file(module)})")
        return kind
    kinds = defined_in(module, base)
    if not kinds:
        raise RecipeError(f"{where}: the module {path} ({_file(module)}) defines no subclass of {base.__name__}")
    if len(kinds) > 1:
        some = " or ".join(f"{path}:{kind.__name__}" for kind in kinds[:3])
        raise RecipeError(f"{where}: the module {path} defines several; say which: {some}")
    return kinds[0]


def defined_in(module: ModuleType, base: type) -> list[type]:
    """The subclasses of `base` that a module itself defines; one that opens a package is not itself a choice."""
    return [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, base)
        and kind.__module__ == module.__name__
        and not kind.__name__.startswith("_")
        and "base" not in vars(kind)
    ]


def name_of(kind: type, base: type) -> str:
    """The dotted name by which `find` finds a class again."""
    module = sys.modules[kind.__module__]
    alone = "." in kind.__module__ and defined_in(module, base) == [kind]
    return kind.__module__ if alone else f"{kind.__module__}:{kind.__name__}"


def import_named(path: str, where: str) -> ModuleType:
    """A module that the user named. Raises RecipeError where there is none, or it cannot be imported, and why."""
    try:
        with _current_folder(path):
            return importlib.import_module(path)
    except Exception as error:  # a module of the user's may fail in any way, and it is theirs to mend
        lost = error.name if isinstance(error, ModuleNotFoundError) else None
        if lost and (path == lost or path.startswith(f"{lost}.")):
            raise RecipeError(
                f"{where}: there is no module '{lost}'; install its package, or put it into this folder"
            ) from error
        reason = " ".join(str(error).split())
        raise RecipeError(f"{where}: importing '{path}' fails: {type(error).__name__}: {reason}") from error


def _module(path: str, where: str) -> ModuleType:
    if path in sys.modules:  # the program has imported it itself, so nothing is run
        return sys.modules[path]
    allowed = _allowed.get()
    if not (ANY in allowed or any(path == package or path.startswith(f"{package}.") for package in allowed)):
        package = path.partition(".")[0]
        raise RecipeError(
            f"{where}: names '{path}', which is no part of chiasm and is not imported because a file says so; if you "
            f"trust that package, allow it: chiasm.load(..., allow=['{package}']), on the command line "
            f"--allow {package}"
        )
    return import_named(path, where)


@contextmanager
def _current_folder(path: str) -> Iterator[None]:
    """Lets a module beside the recipe be found too: the `chiasm` command does not look there, `python -m chiasm` does.

    Only where no installed package has the name, and only while it is imported.
    """
    root, here = path.partition(".")[0], str(Path.cwd())
    if sys.flags.safe_path or here in sys.path or importlib.util.find_spec(root) is not None:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _file(module: ModuleType) -> str:
    return str(getattr(module, "__file__", None) or "built in")
