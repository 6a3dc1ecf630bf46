"""Recipes: YAML -> frozen dataclasses. An unknown key is an error that names the nearest known one.

The folder is the registry. A `Component` is a choice out of a package of modules: `source: coco` picks
`chiasm/data/sources/coco.py` and parses the remaining keys as the dataclass found there. Choices from outside of
chiasm are named by dotted names and entry points, see `chiasm.additions`."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
import sys
import types
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from chiasm import additions
from chiasm.errors import RecipeError

T = TypeVar("T")


class Component:
    """Base of the dataclasses of which a recipe chooses one by name.

    A base declares where its choices live and under which key a recipe names one:
    `class Source(Component, package="chiasm.data.sources", key="source")`. Each module of the package that defines one
    subclass is a choice. A module may offer named starting points, `SIZES: dict[str, Config]`; a recipe then says
    `size: NAME` and overrides single fields.

    base: the class that declared them: Source for every source.
    renamed: former names of fields, with what they are called now. renamed_choices: the same of choices.
    """

    package: ClassVar[str]
    key: ClassVar[str]
    base: ClassVar[type[Component]]
    renamed: ClassVar[Mapping[str, str]] = {}
    renamed_choices: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, package: str | None = None, key: str | None = None, **rest: object) -> None:
        super().__init_subclass__(**rest)
        if package is not None and key is not None:
            cls.package, cls.key, cls.base = package, key, cls

    @classmethod
    def group(cls) -> str:
        """The group of entry points in which installed packages offer choices: `chiasm.sources`, `chiasm.models`."""
        return f"chiasm.{cls.base.package.rpartition('.')[2]}"

    @classmethod
    def names(cls) -> list[str]:
        """The choices: those that come with chiasm, then those of installed packages."""
        own = cls.built_in()
        return [*own, *(name for name in additions.entries_of(cls.group()) if name not in own)]

    @classmethod
    def built_in(cls) -> list[str]:
        """The choices that come with chiasm: the public modules of the package that define a subclass."""
        return [name for name in module_names(cls.base.package) if cls._defined_in(name)]

    @classmethod
    def choose(cls, name: str, where: str = "") -> type[Self]:
        """The subclass of that name: of the package's module, of an entry point, or by a dotted name.

        Raises RecipeError naming the nearest choice, or saying why what is named cannot be used.
        """
        where = where or "the recipe"
        if additions.is_dotted(name):
            return additions.find(name, cls, where)
        if name in module_names(cls.base.package) and (found := cls._defined_in(name)) is not None:
            return found
        offered = additions.entries_of(cls.group()).get(name, ())
        if len(offered) > 1:
            raise RecipeError(f"{where}: several packages offer a {cls.key} '{name}'; name one: {' or '.join(offered)}")
        if offered:
            return additions.find(offered[0], cls, where)
        if name in cls.renamed_choices:
            raise RecipeError(
                f"{where}: there is no {cls.key} '{name}' any more; it is called '{cls.renamed_choices[name]}' now"
            )
        raise RecipeError(f"{where}: there is no {cls.key} '{name}'{suggest(name, cls.names())}")

    @classmethod
    def sizes(cls) -> Mapping[str, Self]:
        """Named starting points that the module of this choice offers; of several classes there, those of this one."""
        offered = getattr(sys.modules[cls.__module__], "SIZES", {})
        return {name: size for name, size in offered.items() if isinstance(size, cls)}

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:  # noqa: ARG003  # most need no files
        """Entries with which this choice can be tried, as the contracts do; files that it reads go into the folder."""
        return {}

    def chosen(self) -> str:
        """The name under which a recipe chooses this component."""
        return self.chosen_name()

    @classmethod
    def chosen_name(cls) -> str:
        """The name under which a recipe chooses this class: of its module in the package, or else its dotted name."""
        package, _, name = cls.__module__.rpartition(".")
        return name if package == cls.base.package else additions.name_of(cls, cls.base)

    @classmethod
    def _defined_in(cls, name: str) -> type[Self] | None:
        module = importlib.import_module(f"{cls.base.package}.{name}")
        own = additions.defined_in(module, cls)
        if len(own) > 1:
            raise TypeError(f"{module.__name__} defines several {cls.__name__}s: {[kind.__name__ for kind in own]}")
        return own[0] if own else None


class Scalar(ABC):
    """Base of values that a recipe writes as one word, such as a URL; `str` gives that word again."""

    @classmethod
    @abstractmethod
    def from_scalar(cls, word: str) -> Self:
        """The value that a word stands for. Raises ValueError where it stands for none."""


def module_names(package: str) -> list[str]:
    """The public modules of a package, sorted; nothing is imported but the package itself."""
    paths = importlib.import_module(package).__path__
    return sorted(module.name for module in pkgutil.iter_modules(paths) if not module.name.startswith("_"))


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of an error: the nearest known name, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known) or 'none'}"


def parse(kind: type[T], entries: Any, where: str = "") -> T:
    """Builds `kind` (a dataclass, a Component, or any annotation of one of their fields) from plain YAML values.

    where: the dotted path of `entries` in the recipe, for errors.
    Raises RecipeError for unknown or missing keys and for values of the wrong type.
    """
    return _parse(kind, entries, where)


def _parse(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _parse_union(arguments, value, where)
    if origin is Literal:
        if value not in arguments:
            known = [str(choice) for choice in arguments]
            raise RecipeError(f"{where}: {value!r} is not a choice here{suggest(str(value), known)}")
        return value
    if origin is tuple:
        return _parse_tuple(arguments, value, where)
    if origin in (dict, Mapping):
        entries = _expect_mapping(value, where)
        return {str(key): _parse(arguments[1], entry, _join(where, key)) for key, entry in entries.items()}
    if isinstance(kind, type) and issubclass(kind, Component):
        return _parse_component(kind, value, where)
    if isinstance(kind, type) and issubclass(kind, Scalar):
        return _parse_word(kind, value, where)
    if dataclasses.is_dataclass(kind):
        return _parse_fields(kind, _expect_mapping(value, where), where, {})
    return _parse_scalar(kind, value, where)


def _parse_word(kind: type[Scalar], value: Any, where: str) -> Scalar:
    try:
        return kind.from_scalar(str(value) if isinstance(value, (str, kind)) else "")
    except ValueError as error:
        raise RecipeError(f"{where}: expected a {kind.__name__}, got {value!r}") from error


def _parse_union(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in choices:
        return None
    alike = [choice for choice in choices if _has_the_form(choice, value)]
    if len(alike) == 1:  # a list, or named entries: what is wrong inside of it is all there is to say
        return _parse(alike[0], value, where)
    errors = []
    for choice in choices:
        if choice is type(None):
            continue
        try:
            return _parse(choice, value, where)
        except RecipeError as error:
            errors.append(error)
    raise errors[-1] if len(errors) == 1 else RecipeError("; or ".join(str(error) for error in errors))


def _has_the_form(choice: Any, value: Any) -> bool:
    """Whether the value, a list or named entries, has the form of the choice."""
    if isinstance(value, (list, tuple)):
        return get_origin(choice) is tuple
    named = dataclasses.is_dataclass(choice) or (isinstance(choice, type) and issubclass(choice, Component))
    return isinstance(value, Mapping) and (named or get_origin(choice) in (dict, Mapping))


def _parse_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise RecipeError(f"{where}: expected a list, got {value!r}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_parse(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(value) != len(arguments):
        raise RecipeError(f"{where}: expected {len(arguments)} entries, got {len(value)}")
    return tuple(
        _parse(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(arguments, value, strict=True))
    )


def _parse_scalar(kind: type, value: Any, where: str) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is float and (is_number or isinstance(value, str)):
        try:
            return float(value)  # YAML reads 1e-3 as a word
        except ValueError:
            pass
    elif kind is Path and isinstance(value, (str, Path)):
        return Path(value)
    elif kind in (int, str, bool) and type(value) is kind:  # type(), as a bool is an int too
        return value
    raise RecipeError(f"{where}: expected {kind.__name__}, got {value!r}")


def _parse_component(kind: type[Component], value: Any, where: str) -> Component:
    entries = dict(_expect_mapping({kind.key: value} if isinstance(value, str) else value, where))
    if kind.key not in entries:
        raise RecipeError(f"{where}: say which one with '{kind.key}: NAME'{suggest('', kind.names())}")
    name = entries.pop(kind.key)
    chosen = kind.choose(str(name), where)
    base: dict[str, Any] = {}
    sizes = chosen.sizes()
    if sizes and "size" in entries:
        size = str(entries.pop("size"))
        if size not in sizes:
            raise RecipeError(f"{where}.size: {name} has no size '{size}'{suggest(size, sizes)}")
        base = {field.name: getattr(sizes[size], field.name) for field in _fields(chosen)}
    return _parse_fields(chosen, entries, where, base)


def _parse_fields(kind: Any, entries: Mapping[str, Any], where: str, base: Mapping[str, Any]) -> Any:
    """A dataclass from its entries; fields that are not given come from `base`, then from the dataclass's defaults."""
    hints = get_type_hints(kind)
    fields = {field.name: field for field in _fields(kind)}
    for key in entries:
        if key in fields:
            continue
        if (new := getattr(kind, "renamed", {}).get(key)) in fields:
            raise RecipeError(f"{_join(where, key)}: there is no such key any more; it is called '{new}' now")
        raise RecipeError(f"{_join(where, key)}: there is no such key{suggest(str(key), fields)}")
    values = dict(base)
    for key, entry in entries.items():
        path = _join(where, key)
        nested = values.get(key)
        if dataclasses.is_dataclass(nested) and isinstance(entry, Mapping) and _same_choice(nested, entry):
            inner = {name: given for name, given in entry.items() if name != getattr(nested, "key", None)}
            start = {field.name: getattr(nested, field.name) for field in _fields(type(nested))}
            values[key] = _parse_fields(type(nested), inner, path, start)
        else:
            values[key] = _parse(hints[key], entry, path)
    missing = [
        name
        for name, field in fields.items()
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise RecipeError(f"{where or 'the recipe'}: {', '.join(missing)} must be given")
    return kind(**values)


def _same_choice(nested: Any, entry: Mapping[str, Any]) -> bool:
    """Whether `entry` adjusts the component that a size already holds, rather than choosing another one."""
    if not isinstance(nested, Component) or nested.key not in entry:
        return True
    return "size" not in entry and nested.base.choose(str(entry[nested.key])) is type(nested)


def _fields(kind: Any) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(kind) if field.init]


def _expect_mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where or 'the recipe'}: expected entries of the form 'key: value', got {value!r}")
    return value


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def dump(value: Any) -> Any:
    """The plain YAML or JSON values from which `parse` builds an equal object."""
    if isinstance(value, Component):
        return {value.key: value.chosen()} | {f.name: dump(getattr(value, f.name)) for f in _fields(type(value))}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: dump(getattr(value, field.name)) for field in _fields(type(value))}
    if isinstance(value, Mapping):
        return {key: dump(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [dump(entry) for entry in value]
    return str(value) if isinstance(value, (Path, Scalar)) else value
