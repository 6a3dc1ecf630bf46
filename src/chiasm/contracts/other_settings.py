"""Other values of a task's settings, for what has to follow from each of them."""

from __future__ import annotations

import types
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from chiasm.config import Component, dump, parse
from chiasm.contracts.contract import Trial, instance, require
from chiasm.data.locations import Url
from chiasm.data.source import Source
from chiasm.errors import ChiasmError, ContractError
from chiasm.evaluation.task import Task

_UNKNOWN = object()


def with_other_settings(trial: Trial[type[Task]]) -> dict[str, Task]:
    """The task of the example with another value of one setting each, by the setting's name.

    Without the name, which nothing follows from, and without files and sources, which count by what they hold.
    Raises ContractError for a setting of which no other value is known, unless `Task.other_settings` says one.
    """
    kind = trial.subject
    task, stated, hints = instance(trial), kind.other_settings(), get_type_hints(kind)
    odd = [name for name in stated if name not in {field.name for field in fields(kind)}]
    require(not odd, f"other_settings() of {kind.__name__} names '{''.join(odd[:1])}', which is no setting of it")
    found: dict[str, Task] = {}
    for name in (field.name for field in fields(kind)):
        if name in ("name", "data") or (name not in stated and _names_data(hints[name])):
            continue
        value = getattr(task, name)
        entry = stated[name] if name in stated else _other(value, hints[name])
        asked = f"say in other_settings() of {kind.__name__} what else than {value!r} '{name}' may be"
        require(entry is not _UNKNOWN, asked)
        try:
            found[name] = parse(kind.base, {**dump(task), name: entry}, kind.chosen_name())  # type: ignore[assignment]  # of that kind
            _ = found[name].requests
        except ChiasmError as error:
            raise ContractError(f"{asked}; {entry!r} does not go: {error}") from error
        require(getattr(found[name], name) != value, f"{asked}; {entry!r} is the same")
    return found


def _names_data(hint: Any) -> bool:
    kinds = get_args(hint) or (hint,)
    return any(isinstance(kind, type) and issubclass(kind, (Path, Url, Source)) for kind in kinds)


def _other(value: Any, hint: Any) -> Any:
    """An entry that parses to another value; _UNKNOWN where the type does not tell any."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        several = (_other(value, kind) for kind in arguments if kind is not type(None))
        return next((other for other in several if other is not _UNKNOWN), _UNKNOWN)
    if origin is Literal:
        return next((other for other in arguments if other != value), _UNKNOWN)
    if origin is tuple:
        return _other_tuple(value, arguments)
    if isinstance(hint, type) and issubclass(hint, Component):
        return _other_choice(value, hint)
    return _other_scalar(value, hint)


def _other_tuple(value: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(value, tuple) or not value:
        return _UNKNOWN
    if arguments[-1] is Ellipsis and len(value) > 1:
        return dump(value[:-1])
    first = _other(value[0], arguments[0])
    return first if first is _UNKNOWN else [first, *dump(value[1:])]


def _other_choice(value: Any, kind: type[Component]) -> Any:
    for name in kind.built_in():
        try:
            other = parse(kind, {kind.key: name})
        except ChiasmError:  # it cannot be had without settings
            continue
        if other != value:
            return dump(other)
    return _UNKNOWN


def _other_scalar(value: Any, hint: Any) -> Any:
    if hint is bool:
        return not value
    if hint is int:
        return value + 1 if isinstance(value, int) else 5
    if hint is float:
        return value / 2 if isinstance(value, float) and value else 0.5
    return f"{value or 'as you like,'} please" if hint is str else _UNKNOWN
