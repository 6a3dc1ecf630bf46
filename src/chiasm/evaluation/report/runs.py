"""What a report is made of: run folders, read and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from chiasm.data.files import to_text
from chiasm.errors import ChiasmError, RecipeError
from chiasm.evaluation.result import PICTURES, Evaluation, Score, TaskResult

# What curves can be drawn against, by its key in metrics.jsonl.
XAxis = Literal["samples", "step", "seconds"]


@dataclass(frozen=True)
class Series:
    """One line of a plot: x and y, equally long, finite, in the order of training."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]


@dataclass(frozen=True)
class Log:
    """A training log: what each logged step said, and what the evaluations during training found. Ordered by step.

    notes: what else the loop wrote down: steps it skipped, tensors that no gradient reached.
    """

    steps: tuple[Mapping[str, Any], ...] = ()
    evaluations: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[Mapping[str, Any], ...] = ()

    def series(self, *path: str, by: XAxis = "samples") -> Series:
        """The values under a key, such as "learning_rate" or ("losses", "contrastive"), against samples seen."""
        return _series((step.get(by), _lookup(step, path)) for step in self.steps)

    def evaluated(self, name: str, by: XAxis = "samples") -> Series:
        """The values of one figure that was measured during training, against samples seen."""
        logged = [step for step in self.steps if isinstance(step.get(by), (int, float))]
        at = [0.0, *(float(step["step"]) for step in logged)]
        reached = [0.0, *(float(step[by]) for step in logged)]
        return _series(
            (float(np.interp(entry["step"], at, reached)), entry["evaluation"].get(name)) for entry in self.evaluations
        )

    @property
    def loss_names(self) -> list[str]:
        """The named losses that were logged, in order of appearance."""
        return [name for name in self._named if not name.startswith("_")]

    @property
    def watched_names(self) -> list[str]:
        """What a model logs beside its losses, such as "_temperature": see `Model.losses`."""
        return [name for name in self._named if name.startswith("_")]

    @property
    def _named(self) -> list[str]:
        return list(dict.fromkeys(name for step in self.steps for name in step.get("losses", {})))

    @property
    def evaluated_names(self) -> list[str]:
        return list(dict.fromkeys(name for entry in self.evaluations for name in entry["evaluation"]))

    @property
    def last(self) -> Mapping[str, Any]:
        return self.steps[-1] if self.steps else {}


@dataclass(frozen=True)
class Run:
    """One model of a report. name: unique among the runs of the report. index: its place, which gives its colour."""

    index: int
    name: str
    folder: Path
    evaluation: Evaluation
    log: Log
    recipe: Mapping[str, Any]

    @cached_property
    def results(self) -> Mapping[str, TaskResult]:
        return {result.name: result for result in self.evaluation.results}

    @property
    def evaluated(self) -> Path:
        """The folder of the results, with answers and pictures."""
        return self.folder / "evaluation"

    @property
    def pictures(self) -> Path:
        return self.evaluated / PICTURES

    def score(self, task: str, metric: str, group: str = "") -> Score | None:
        """The score of that name, or None where this run has none."""
        result = self.results.get(task)
        if result is None:
            return None
        return next((score for score in result.scores if (score.name, score.group) == (metric, group)), None)


def load_runs(folders: Sequence[Path]) -> tuple[Run, ...]:
    """Reads run folders, of runs that are not evaluated or not finished too.

    Raises ChiasmError for a folder without results and without a training log, or with a file that cannot be read.
    """
    if not folders:
        raise ChiasmError("a report needs at least one run folder; name one, such as runs/clip")
    read = [_read(Path(folder)) for folder in folders]
    names = _unique_names(read)
    return tuple(
        Run(index, name, folder, evaluation, read_log(folder / "metrics.jsonl"), read_recipe(folder / "recipe.yaml"))
        for index, (name, (folder, evaluation)) in enumerate(zip(names, read, strict=True))
    )


def task_names(runs: Iterable[Run]) -> list[str]:
    """The tasks of all runs, in order of first appearance."""
    return list(dict.fromkeys(result.name for run in runs for result in run.evaluation.results))


def metrics(runs: Iterable[Run], task: str) -> list[tuple[str, str]]:
    """The (metric, group) pairs that the runs have for a task, in order of first appearance."""
    scores = (score for run in runs if task in run.results for score in run.results[task].scores)
    return list(dict.fromkeys((score.name, score.group) for score in scores))


def read_log(file: Path) -> Log:
    """The training log in `metrics.jsonl`; empty where there is none, as for a model that was trained elsewhere.

    Where a step was logged twice, the later entry counts. A last line that was cut short is left out.
    Raises ChiasmError, naming the line, for what is not a log entry.
    """
    text = to_text(file.read_bytes(), str(file)) if file.exists() else ""
    lines = text.splitlines()
    if lines and not text.endswith("\n"):
        del lines[-1]  # the run was killed while it wrote
    steps: dict[int, Mapping[str, Any]] = {}
    evaluations: dict[int, Mapping[str, Any]] = {}
    notes = []
    for number, line in enumerate(lines, start=1):
        entry = _log_entry(line, f"{file}, line {number}")
        if isinstance(entry.get("evaluation"), Mapping):
            evaluations[entry["step"]] = entry
        elif "loss" in entry:
            steps[entry["step"]] = entry
        else:
            notes.append(entry)
    return Log(
        tuple(steps[at] for at in sorted(steps)), tuple(evaluations[at] for at in sorted(evaluations)), tuple(notes)
    )


def read_recipe(file: Path) -> Mapping[str, Any]:
    """The entries of a recipe as plain values; none where there is no such file."""
    if not file.exists():
        return {}
    try:
        entries = yaml.safe_load(file.read_bytes())
    except yaml.YAMLError as error:
        raise RecipeError(f"{file} is not YAML: {error}") from error
    if not isinstance(entries, dict):
        raise RecipeError(f"{file}: expected entries of the form 'key: value'")
    return entries


def _log_entry(line: str, where: str) -> Mapping[str, Any]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ChiasmError(f"{where}: not JSON ({error.msg}); remove the line") from error
    if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
        raise ChiasmError(f"{where}: a log entry is an object with a 'step'; remove the line")
    return entry


def _read(folder: Path) -> tuple[Path, Evaluation]:
    if not folder.is_dir():
        raise ChiasmError(f"there is no run folder {folder}; name the folder of a run, such as runs/clip")
    if (folder / "metrics.jsonl").exists() and not (folder / "evaluation" / "results.json").exists():
        return folder, Evaluation(_named_in_recipe(folder), ())
    evaluation = Evaluation.load(folder / "evaluation")
    if not any(result.scores for result in evaluation.results):
        raise ChiasmError(f"{folder / 'evaluation' / 'results.json'} holds no score; run `chiasm eval` again")
    scored = tuple(result for result in evaluation.results if result.scores)
    return folder, replace(evaluation, results=scored)


def _named_in_recipe(folder: Path) -> dict[str, str]:
    name = read_recipe(folder / "recipe.yaml").get("name")
    return {"name": name} if isinstance(name, str) else {}


def _unique_names(read: Sequence[tuple[Path, Evaluation]]) -> list[str]:
    """What the models call themselves; where that names two of them, the names of their folders, then their paths."""
    own = [evaluation.model.get("name") or folder.resolve().name for folder, evaluation in read]
    folders = [folder.resolve().name for folder, _ in read]
    for names in (own, folders):
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {name}" for number, name in enumerate(folders, start=1)]


def _lookup(entry: Mapping[str, Any], path: Sequence[str]) -> object:
    value: object = entry
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _series(pairs: Iterable[tuple[object, object]]) -> Series:
    """Only finite points: a loss that was not finite is a gap in a plot, never a line to nowhere."""
    numbers = [(_number(x), _number(y)) for x, y in pairs]
    points = [(x, y) for x, y in numbers if x is not None and y is not None]
    return Series(np.array([x for x, _ in points]), np.array([y for _, y in points]))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
