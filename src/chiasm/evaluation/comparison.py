"""Two evaluations item by item: which differences are more than chance, and which items changed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from chiasm.config import Component, dump, parse
from chiasm.data.image import Image
from chiasm.errors import CheckpointError, DataError, RecipeError
from chiasm.evaluation import outcomes
from chiasm.evaluation.files import write_file
from chiasm.evaluation.result import Evaluation, TaskResult
from chiasm.evaluation.statistics import Difference, holm
from chiasm.evaluation.task import Task

TASKS = "tasks.yaml"  # beside results.json: the tasks as recipe entries, so that their requests can be made again
CERTAIN = 0.05  # a corrected p below it is called a difference
_UNWRITTEN = "unwritten"  # there, in place of settings: why no recipe can name the task


@dataclass(frozen=True)
class Change:
    """One item that the models answered differently well. gain: credit of the first model less that of the second.

    answers: of both models, in words. images: the files of both models' answers, where these are images, else "".
    """

    key: str
    kind: str
    sample: str
    answers: tuple[str, str]
    gain: float
    images: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Compared:
    """One task of two runs.

    differences: every metric, the headline first. adjusted: the headline's p, corrected by Holm for the number of tasks
    compared. changes: the headline's items whose credit changed, in the order of the data. notes: what besides the
    weights was not the same.
    """

    task: str
    differences: tuple[Difference, ...]
    adjusted: float
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> Difference:
        return self.differences[0]


@dataclass(frozen=True)
class Comparison:
    """Two models on the tasks that both were asked. names: of the models. refused: why other tasks are not compared."""

    names: tuple[str, str]
    tasks: tuple[Compared, ...]
    refused: tuple[str, ...]


def compare_evaluations(first: Path, second: Path, tasks: Sequence[str] = ()) -> Comparison:
    """Compares two evaluation folders. tasks: only these; by default all that both hold.

    Raises CheckpointError where a folder holds no results or no answers; DataError if a task that was named cannot be
    compared, or no task can: figures are compared only where the requests are the same to the last letter and pixel.
    """
    folders = (first, second)
    evaluations = [Evaluation.load(folder) for folder in folders]
    ours, theirs = ({result.name: result for result in evaluation.results} for evaluation in evaluations)
    names = tuple(
        evaluation.model.get("name", str(folder)) for evaluation, folder in zip(evaluations, folders, strict=True)
    )
    left_out = {
        task: f"task '{task}' was left out for {name}: it {why}"
        for name, evaluation in zip(names, evaluations, strict=True)
        for task, why in evaluation.left_out.items()
    }
    wanted = list(tasks) or [
        name for name in {**ours, **theirs} if name in left_out or (name in ours and name in theirs)
    ]
    found, refused = [], []
    for name in wanted:
        if reason := left_out.get(name) or _unlike(name, ours.get(name), theirs.get(name)):
            refused.append(reason)
        else:
            found.append(_compared(folders, ours[name], theirs[name]))
    if tasks and refused:
        raise DataError(refused[0])
    if not found:
        raise DataError(
            refused[0] if refused else f"{first} and {second} share no task; evaluate both on the same tasks"
        )
    corrected = holm([task.headline.p for task in found])
    adjusted = tuple(replace(task, adjusted=p) for task, p in zip(found, corrected, strict=True))
    return Comparison((names[0], names[1]), adjusted, tuple(refused))


def leads(pairs: Sequence[tuple[str, Path, Path]]) -> list[Difference | None]:
    """How the headlines of tasks differ between two evaluation folders each, as `compare_evaluations` finds it.

    pairs: the task's name, the first model's folder and the second's. p is corrected by Holm for the number of tasks.
    None where a folder holds no answers: then there is nothing to pair.
    """
    found: list[Difference | None] = []
    for task, *folders in pairs:
        first, second = (answers_file(folder, task) for folder in folders)
        if first.is_file() and second.is_file():
            shared = outcomes.differences(outcomes.read(first)[0], outcomes.read(second)[0], most=1)
        else:
            shared = []
        found.append(shared[0] if shared else None)
    corrected = iter(holm([difference.p for difference in found if difference is not None]))
    return [difference and replace(difference, p=next(corrected)) for difference in found]


def answers_file(folder: Path, task: str) -> Path:
    """The file of the answers to each task, by the task's name."""
    name = re.sub(r"[^\w.-]+", "_", task)
    return folder / outcomes.ANSWERS / f"{name}.jsonl"


def write_tasks(tasks: Sequence[Task], folder: Path) -> None:
    """Writes the tasks as recipe entries; of one that no recipe can name, such as of data in memory, why not."""
    write_file(folder / TASKS, "".join(_entry(task) for task in tasks) or "[]\n")


def images_of(folder: Path, task: str) -> Mapping[str, Image]:
    """The first image of each item of a task, by the item's key and by its sample's, read from the data again.

    Empty where the folder does not say how the task was asked. Raises DataError if tasks.yaml is not YAML, the data are
    gone, or no recipe can name them; RecipeError if they are of a package that is not installed, or not allowed.
    """
    file = folder / TASKS
    try:
        entries: Any = yaml.safe_load(file.read_bytes()) if file.is_file() else []
    except yaml.YAMLError as error:
        raise DataError(f"{file} is not YAML; run `chiasm eval` again") from error
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict) or (entry.get("name") or entry.get("task")) != task:
            continue
        if _UNWRITTEN in entry:
            raise DataError(f"it cannot be asked again to show them, because {entry[_UNWRITTEN]}")
        made = parse(Task, entry, str(file))  # type: ignore[type-abstract]  # a choice of the package is built
        shown = [(request, request.all_images[0]) for request in made.requests if request.all_images]
        by_sample = {request.cluster: image for request, image in reversed(shown)}
        return by_sample | {request.key: image for request, image in shown}
    return {}


def _entry(task: Task) -> str:
    try:
        _require_names(task)
        return yaml.safe_dump([dump(task)], sort_keys=False, allow_unicode=True)
    except RecipeError as error:
        why = str(error)
    except yaml.YAMLError:
        why = f"{type(task.data).__name__} holds what a recipe cannot say, such as samples in memory"
    entry = {task.key: type(task).__name__, "name": task.title, _UNWRITTEN: why}
    return yaml.safe_dump([entry], sort_keys=False, allow_unicode=True)


def _require_names(value: object) -> None:
    """Raises RecipeError unless each choice within can be found again by its name: a class inside a function cannot."""
    if isinstance(value, Component):
        kind = type(value)
        if kind.base.choose(value.chosen(), f"the {value.key} '{value.chosen()}'") is not kind:
            raise RecipeError(f"the {value.key} '{value.chosen()}' is the name of another class")
    if is_dataclass(value):
        for entry in fields(value):
            _require_names(getattr(value, entry.name))
    elif isinstance(value, (list, tuple, Mapping)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            _require_names(inner)


def _unlike(name: str, ours: TaskResult | None, theirs: TaskResult | None) -> str:
    """Why two results may not be compared; "" if they may."""
    if ours is None or theirs is None:
        return f"task '{name}' was not asked of both models; evaluate both on it"
    if ours.requests != theirs.requests:
        return (
            f"task '{name}' did not ask both models the same (hashes {ours.requests[:8]} and {theirs.requests[:8]}): "
            "its data, settings or the versions of chiasm and torch differ; evaluate both again in the same way"
        )
    return ""


def _compared(folders: tuple[Path, Path], ours: TaskResult, theirs: TaskResult) -> Compared:
    files = [answers_file(folder, ours.name) for folder in folders]
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"there is no {file} with the answers; run `chiasm eval` again")
    (ours_by_metric, first_by_metric), (theirs_by_metric, second_by_metric) = map(outcomes.read, files)
    found = outcomes.differences(ours_by_metric, theirs_by_metric)
    if not found:
        raise DataError(f"task '{ours.name}': the runs share no metric; evaluate both with the same version")
    notes = []
    if ours.protocol != theirs.protocol:
        notes.append("the models' processors differ: other tokens or pixels were made of the same questions")
    headline = found[0].name
    credit, other = ours_by_metric[headline].credit, theirs_by_metric[headline].credit
    first, second = first_by_metric[headline], second_by_metric[headline]
    changes = tuple(
        Change(
            key,
            first[key].kind,
            first[key].sample,
            (first[key].answer, second[key].answer),
            credit[key] - other[key],
            (first[key].image, second[key].image),
        )
        for key in credit
        if credit[key] != other[key]
    )
    return Compared(ours.name, tuple(found), 0.0, changes, tuple(notes))
