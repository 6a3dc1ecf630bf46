"""Scores along the line between the weights of two models (WiSE-FT's curve)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chiasm.adaptation.blend import blend
from chiasm.config import dump, parse
from chiasm.data.files import read_json
from chiasm.errors import CheckpointError
from chiasm.evaluation.files import write_file
from chiasm.evaluation.run import quick_scores
from chiasm.evaluation.task import Task
from chiasm.models.model import Model

FILE = "blend.json"


@dataclass(frozen=True)
class Curve:
    """names: of the two models. alphas: shares of the second, rising. figures: by "task: metric", one an alpha."""

    names: tuple[str, str]
    alphas: tuple[float, ...]
    figures: Mapping[str, tuple[float, ...]]

    def headlines(self) -> Mapping[str, tuple[float, ...]]:
        """The first figure of each task."""
        return {name: self.figures[name] for name in headlines(self.figures).values()}

    def save(self, folder: Path) -> None:
        """Writes blend.json; an older one is replaced in one step."""
        write_file(folder / FILE, json.dumps(dump(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Curve:
        """Raises CheckpointError where the folder has no blend.json, DataError where that is not JSON."""
        file = folder / FILE
        if not file.exists():
            raise CheckpointError(f"there is no {file}; run `chiasm blend` with --tasks first")
        return parse(cls, read_json(file), str(file))


def headlines(figures: Iterable[str]) -> dict[str, str]:
    """The first of each task's figures, which are named "task: metric", by the task."""
    firsts: dict[str, str] = {}
    for name in figures:
        firsts.setdefault(name.split(": ")[0], name)
    return firsts


def blend_curve(
    first: Model,
    second: Model,
    tasks: Sequence[Task],
    alphas: Sequence[float],
    names: tuple[str, str],
    on_figures: Callable[[float, Mapping[str, float]], None] | None = None,
) -> Curve:
    """The scores of the blends at these alphas. on_figures: is handed each alpha's figures as they come.

    Raises what `blend` and `quick_scores` raise.
    """
    found: list[Mapping[str, float]] = []
    alphas = sorted(set(alphas))
    for alpha in alphas:
        found.append(quick_scores(blend(first, second, alpha), tasks))
        if on_figures is not None:
            on_figures(alpha, found[-1])
    return Curve(names, tuple(alphas), {name: tuple(figures[name] for figures in found) for name in found[0]})
