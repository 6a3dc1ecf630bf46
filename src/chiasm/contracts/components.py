"""What every choice promises, of whatever kind."""

from __future__ import annotations

import dataclasses
import sys

from chiasm.config import Component, dump, parse
from chiasm.contracts.contract import Trial, instance, require

BASE = Component


def says_what_it_is(trial: Trial[type[Component]]) -> None:
    """It says what it is: the first line of its module's docstring, which `chiasm ls` shows, and one of its class."""
    kind = trial.subject
    lines = (sys.modules[kind.__module__].__doc__ or "").strip().splitlines()
    require(bool(lines) and len(lines[0]) > 20, f"the module {kind.__module__} needs a docstring that says what it is")
    written = vars(kind).get("__doc__") or ""
    require(
        bool(written) and not written.startswith(f"{kind.__name__}("),  # what a dataclass writes where there is none
        f"the class {kind.__name__} needs a docstring that says what its fields mean",
    )


def is_a_frozen_dataclass(trial: Trial[type[Component]]) -> None:
    """It is a frozen dataclass of its own, so that its fields are the keys of its recipe entry."""
    kind = trial.subject
    parameters = getattr(kind, "__dataclass_params__", None)
    plain = dataclasses.is_dataclass(kind) and not dataclasses.fields(kind)  # there is nothing to decorate it for
    frozen = parameters is not None and parameters.frozen and "__dataclass_params__" in vars(kind)
    require(frozen or plain, f"the class {kind.__name__} must be decorated with @dataclass(frozen=True)")


def is_found_by_its_name(trial: Trial[type[Component]]) -> None:
    """Its name, as recipes and checkpoints write it, leads back to it."""
    kind = trial.subject
    name = kind.chosen_name()
    found = kind.base.choose(name)
    require(found is kind, f"'{name}' leads to {found.__module__}.{found.__name__}, not to {kind.__name__}")


def is_written_and_read_back(trial: Trial[type[Component]]) -> None:
    """An entry that is parsed and written down parses to an equal one; so do all of its named sizes."""
    kind = trial.subject
    sizes = kind.sizes()
    for config in (*sizes.values(), *(() if sizes else (instance(trial),))):
        again = parse(kind.base, dump(config))
        require(again == config, f"{dump(config)} parses to another: {dump(again)}")
