"""The entries of a recipe's file: which file it is, what it extends, overrides, references to other entries."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from chiasm.config import suggest
from chiasm.errors import RecipeError

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
_MUST_BE_GIVEN = "???"
_RENAMED_FOLDERS = {"speaker": "vlm"}  # former folders of the recipes that come with chiasm


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with chiasm, by name ("family/experiment")."""
    folder = Path(str(files("chiasm"))) / "recipes"
    return {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.yaml"))}


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe given by path or by the name of a shipped one."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(name) in shipped:
        return shipped[str(name)]
    folder, _, rest = str(name).partition("/")
    if (new := f"{_RENAMED_FOLDERS.get(folder)}/{rest}") in shipped:
        raise RecipeError(f"there is no recipe '{name}' any more; it is called '{new}' now")
    raise RecipeError(f"there is no recipe '{name}'{suggest(str(name), shipped)}")


def given_entries(name: str | Path, overrides: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """The file of a recipe, and its entries with overrides. Raises RecipeError where an entry is still "???"."""
    file = find_recipe(name)
    entries = read_entries(file)
    for change in overrides:
        override(entries, change)
    _check_given(entries, file)
    return file, entries


def read_entries(file: Path) -> dict[str, Any]:
    """The entries of a recipe file, merged over those of the recipe that it extends."""
    entries = _read_yaml(file)
    if "extends" not in entries:
        return entries
    base_file = file.parent / str(entries.pop("extends"))
    if not base_file.is_file():
        raise RecipeError(f"{file}: extends {base_file}, which does not exist")
    base = _read_yaml(base_file)
    if "extends" in base:
        raise RecipeError(f"{file}: extends {base_file.name}, which extends another; only one level is read")
    return deep_merge(base, entries)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        entries = yaml.load(file.read_text(encoding="utf-8"), _UniqueKeys)  # noqa: S506  # a SafeLoader
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file} is not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{file} is not YAML that can be read: {' '.join(str(error).split())}") from error
    if not isinstance(entries, dict):
        raise RecipeError(f"{file} holds no recipe; expected entries of the form 'key: value'")
    return entries


class _UniqueKeys(yaml.SafeLoader):
    """A SafeLoader that refuses equal keys in one mapping; SafeLoader itself would keep the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key '{key}' stands twice, {node.start_mark}")
        return super().construct_mapping(node, deep)


def deep_merge(base: Any, top: Any) -> Any:
    """`base` with the entries of `top` over it: mappings are merged; anything else, lists too, is replaced whole."""
    if not (isinstance(base, dict) and isinstance(top, dict)):
        return top
    merged = dict(base)
    for key, value in top.items():
        merged[key] = deep_merge(base[key], value) if key in base else value
    return merged


def override(entries: dict[str, Any], change: str) -> None:
    """Applies one override of the form "a.b=value" to the entries of a recipe."""
    path, equals, text = change.partition("=")
    if not equals or not path:
        raise RecipeError(f"the override '{change}' is not of the form a.b=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"the value of the override '{change}' is not YAML") from error
    node: Any = entries
    *parents, last = path.split(".")
    for at, parent in enumerate(parents):
        if isinstance(node, list):
            node = node[_index(node, parent, change)]
        elif isinstance(node, dict):
            node = node.setdefault(parent, {})
        else:
            raise RecipeError(f"the override '{change}': {'.'.join(parents[:at])} holds no entries")
    if isinstance(node, list):
        node[_index(node, last, change)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise RecipeError(f"the override '{change}': {'.'.join(parents)} holds no entries")


def _index(items: list[Any], text: str, override: str) -> int:
    if not text.isdigit() or int(text) >= len(items):
        raise RecipeError(f"the override '{override}': '{text}' is not one of the {len(items)} list entries, 0 onwards")
    return int(text)


def interpolate(value: Any, entries: dict[str, Any]) -> Any:
    """Replaces "${a.b}" by the entry a.b of the recipe."""
    if isinstance(value, dict):
        return {key: interpolate(entry, entries) for key, entry in value.items()}
    if isinstance(value, list):
        return [interpolate(entry, entries) for entry in value]
    if isinstance(value, str):
        return _REFERENCE.sub(lambda match: str(_look_up(entries, match[1])), value)
    return value


def _look_up(entries: Any, path: str) -> Any:
    for key in path.split("."):
        if not isinstance(entries, dict) or key not in entries:
            raise RecipeError(f"${{{path}}}: the recipe has no such entry")
        entries = entries[key]
    return entries


def _check_given(entries: dict[str, Any], file: Path) -> None:
    missing = list(islice(_missing(entries, ""), 3))
    if missing:
        given = " ".join(f"{path}=VALUE" for path in missing)
        raise RecipeError(f"{file} leaves {', '.join(missing)} to you: add {given}")


def _missing(value: Any, path: str) -> Iterator[str]:
    if value == _MUST_BE_GIVEN:
        yield path
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _missing(entry, f"{path}.{key}" if path else str(key))
    if isinstance(value, list):
        for at, entry in enumerate(value):
            yield from _missing(entry, f"{path}.{at}")
