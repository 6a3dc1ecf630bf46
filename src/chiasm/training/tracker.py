"""Curves elsewhere than in metrics.jsonl: TensorBoard, Weights & Biases, Trackio; a module of trackers/ each.

A tracker is given what metrics.jsonl is given, in the same order, and nothing else: the file stays the truth."""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from chiasm.config import Component
from chiasm.errors import MissingExtra


@dataclass(frozen=True)
class RunInfo:
    """A run as its trackers see it when a sitting of it begins.

    folder: of the run. recipe: its text, YAML. step: the last one that is done; 0 in a new run. logged: the last one
    that an earlier sitting logged. It is later than `step` where a kill came after the last checkpoint: the steps
    between are done again, to the same figures.
    """

    folder: Path
    name: str
    recipe: str
    step: int = 0
    logged: int = 0


class Tracker(ABC):
    """Takes the figures of one sitting of a run."""

    @abstractmethod
    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of a step; steps never fall."""

    @abstractmethod
    def close(self) -> None:
        """Sends or writes what is left."""


class TrackerConfig(Component, ABC, package="chiasm.training.trackers", key="tracker"):
    """A recipe's choice of a tracker. package: what it needs; extra: the extra of chiasm that brings it."""

    package: ClassVar[str]
    extra: ClassVar[str]

    def check(self) -> None:
        """Raises MissingExtra if its package is not installed; before anything is trained."""
        if importlib.util.find_spec(self.package) is None:
            raise MissingExtra(self.package, self.extra, f"training.trackers: {self.chosen()}")

    @abstractmethod
    def start(self, run: RunInfo) -> Tracker:
        """The tracker of one sitting. Raises MissingExtra as `check` does."""

    def module(self, name: str) -> ModuleType:
        """A module of the package, or one that needs it."""
        self.check()
        return importlib.import_module(name)


def scalars(figures: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl, those of nested entries as "losses/contrastive"; its step is left out."""
    found: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{inner}": number for inner, number in scalars(value).items()}
        elif isinstance(value, (int, float)) and name != "step":
            found[name] = value
    return found
