"""Asks a model the questions of tasks, its baselines beside it, and keeps everything as it comes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from chiasm.errors import CapabilityError, RecipeError
from chiasm.evaluation import outcomes
from chiasm.evaluation.baselines import BASELINES, Baseline, blind, shuffled
from chiasm.evaluation.comparison import answers_file, write_tasks
from chiasm.evaluation.examples import Thumbnails
from chiasm.evaluation.item import Item
from chiasm.evaluation.protocol import asked_hash, processor_hash, protocol
from chiasm.evaluation.protocol import fingerprint as fingerprint_of
from chiasm.evaluation.request_runner import DEFAULT_OPTIONS, Askable, RequestRunner, RunOptions, lack
from chiasm.evaluation.response_cache import ResponseCache
from chiasm.evaluation.result import Evaluation, TaskResult
from chiasm.evaluation.scoring import scoring
from chiasm.evaluation.share import Share
from chiasm.evaluation.statistics import calibration_of, figure_of, reported_kinds, scores_of
from chiasm.evaluation.task import Request, Task
from chiasm.models.model import Model
from chiasm.weights.endpoint import Endpoint

CACHE = "cache"  # of embeddings and raw answers; an evaluation goes on from it, and it may be deleted at any time


def evaluate(
    model: Askable,
    tasks: Sequence[Task],
    folder: Path,
    *,
    about: Mapping[str, str] | None = None,
    fingerprint: str = "",
    baselines: Sequence[Baseline] = BASELINES,
    way: RunOptions = DEFAULT_OPTIONS,
    leave_out: bool = False,
    progress: bool = True,
) -> Evaluation:
    """Scores a model on tasks; writes results.json, answers/ and pictures/ into the folder and returns the results.

    What was embedded or answered in the folder before, by the same model under the same protocol, is not asked again.
    For a model that embeds, baselines cost next to nothing; for others "blind" and "shuffled" ask every question anew.
    about: what results say of the model (name, step, checkpoint). fingerprint: of its weights; by default a hash of
    them. A model that is not a torch module and comes without one is asked everything anew.
    way: how it is asked; whatever its share, what other shares have not answered is asked here.
    leave_out: tasks that need a verb which the model lacks are left out, and the results tell which, and why.
    Raises CapabilityError, before anything is asked, if the model lacks a verb that a task needs and `leave_out` is not
    given, or that all tasks need; RecipeError if two tasks go by the same name; DataError if a task finds nothing to
    ask about; RemoteError if an endpoint stops.
    """
    fingerprint = fingerprint or fingerprint_of(model)
    way = replace(way, share=Share())
    left_out = check(model, tasks, way, leave_out=leave_out)
    tasks = [task for task in tasks if task.title not in left_out]
    with _begun(model, tasks, folder, fingerprint, baselines, way, progress) as (asker, asked):
        shares, started = _shares(asked), time.perf_counter()
        if asker.jointly:
            asker.prepare([item for one in asked for item in one.items()])
        jointly = time.perf_counter() - started
        results: list[TaskResult] = []
        for one in asked:
            started = time.perf_counter()
            asker.prepare(one.items())
            result = _result(one, asker, baselines, folder)
            seconds = time.perf_counter() - started + jointly * shares[one.task.title]
            results.append(replace(result, seconds=round(seconds, 3)))
            described = _described(asker, about or {}, fingerprint, asked)
            evaluation = Evaluation(described, tuple(results), left_out)
            evaluation.save(folder)
    return evaluation


def ask(
    model: Askable,
    tasks: Sequence[Task],
    folder: Path,
    *,
    fingerprint: str = "",
    baselines: Sequence[Baseline] = BASELINES,
    way: RunOptions = DEFAULT_OPTIONS,
    leave_out: bool = False,
    progress: bool = True,
) -> None:
    """Asks one share of the questions, beside other processes that ask theirs; `evaluate` then finds all answers."""
    fingerprint = fingerprint or fingerprint_of(model)
    left_out = check(model, tasks, way, leave_out=leave_out)
    tasks = [task for task in tasks if task.title not in left_out]
    with _begun(model, tasks, folder, fingerprint, baselines, way, progress) as (asker, asked):
        asker.prepare([item for one in asked for item in one.items()])


def check(
    model: Askable, tasks: Sequence[Task], way: RunOptions = DEFAULT_OPTIONS, *, leave_out: bool = False
) -> dict[str, str]:
    """Raises, before anything is asked or trained, what `evaluate` would raise of the model and the tasks.

    Returns why the model cannot be asked tasks that are left out, by their titles; see `evaluate`.
    """
    _expect_unique(tasks)
    scoring(model, way.score_by)
    lacks = {task.title: why for task in tasks if (why := lack(model, task))}
    if lacks and (not leave_out or len(lacks) == len(tasks)):
        title, why = next(iter(lacks.items()))
        mend = "no task is left" if leave_out else "leave the task out (`chiasm eval --leave-out-impossible` does)"
        raise CapabilityError(f"task '{title}' {why}; {mend} or choose another model")
    return lacks


def quick_scores(
    model: Askable, tasks: Sequence[Task], *, by_kind: bool = False, way: RunOptions = DEFAULT_OPTIONS
) -> dict[str, float]:
    """The scores alone, by "task: metric", for the evaluation of a model in training: no files, no baselines.

    Tasks keep their questions, so asking the same task objects again builds nothing anew.
    by_kind: also each kind's score, by "task: metric (kind)".
    Raises CapabilityError, RecipeError and DataError as `evaluate` does.
    """
    check(model, tasks, way)
    found: dict[str, float] = {}
    with _bars(show=False) as bars, _as_it_was(model):
        asker = RequestRunner(model, bars, way=way)
        response_caches = [ResponseCache() for _ in tasks]
        asker.prepare(
            [Item(one, responses) for task, responses in zip(tasks, response_caches, strict=True) for one in task.asked]
        )
        for task, responses in zip(tasks, response_caches, strict=True):
            for metric in task.measure(task.asked, asker.answers(task.asked, responses)).metrics:
                found[f"{task.title}: {metric.name}"] = figure_of(metric)
                for kind, members in reported_kinds(metric).items() if by_kind else ():
                    found[f"{task.title}: {metric.name} ({kind})"] = figure_of(metric, members)
    return found


@dataclass(frozen=True)
class _Asked:
    """A task on its way: what is asked in each of its runs, and the journal of its answers."""

    task: Task
    runs: Mapping[str, Sequence[Request]]
    responses: ResponseCache
    asked: str  # hashes: see chiasm.evaluation.protocol
    protocol: str

    def items(self) -> list[Item]:
        return [Item(question, self.responses, run) for run, several in self.runs.items() for question in several]


@contextmanager
def _begun(
    model: Askable,
    tasks: Sequence[Task],
    folder: Path,
    fingerprint: str,
    baselines: Sequence[Baseline],
    way: RunOptions,
    progress: bool,
) -> Iterator[tuple[RequestRunner, list[_Asked]]]:
    """An asker and its tasks, which were checked, journals open."""
    write_tasks(tasks, folder)
    processor = processor_hash(model)
    identity = fingerprint and f"{fingerprint}-{processor}"
    cache = folder / CACHE
    with _bars(progress) as bars, _as_it_was(model), ExitStack() as open_response_caches:
        asker = RequestRunner(model, bars, cache, identity, way)
        asked: list[_Asked] = []
        for task in tasks:
            hashed, file = asked_hash(task, task.asked), f"{_file_name(task)}.jsonl"
            name = protocol(hashed, processor, asker.scoring)
            others = [other / file for other in way.share.others(cache)]
            responses = ResponseCache(
                way.share.folder(cache) / file, identity, name, others, keep_failed=way.keep_failed
            )
            asked.append(
                _Asked(task, _runs(task, baselines), open_response_caches.enter_context(responses), hashed, name)
            )
        if isinstance(model, Endpoint):
            model.remember(told for one in asked for told in one.responses.told)
        yield asker, asked


def _runs(task: Task, baselines: Sequence[Baseline]) -> dict[str, Sequence[Request]]:
    """What the model is asked: the task's questions as they are, and as altered for the baselines."""
    runs: dict[str, Sequence[Request]] = {"": task.asked}
    if "blind" in baselines:
        runs["blind"] = blind(task.asked)
    if "shuffled" in baselines and (exchanged := shuffled(task.asked)) is not None:
        runs["shuffled"] = exchanged
    return runs


def _result(asked: _Asked, asker: RequestRunner, baselines: Sequence[Baseline], folder: Path) -> TaskResult:
    task, responses = asked.task, asked.responses
    answers = asker.answers(asked.runs[""], responses)
    measured = {
        run: task.measure(task.asked, asker.answers(questions, responses, run)).metrics
        for run, questions in asked.runs.items()
        if run
    }
    if "constant" in baselines:
        measured |= {one: task.measure(task.asked, said).metrics for one, said in task.constants().items()}
    found = task.measure(task.asked, answers)
    outcomes.write(found.metrics, answers_file(folder, task.title))
    return TaskResult(
        task=task.chosen(),
        name=task.title,
        scores=scores_of(found.metrics, {run: measured[run] for run in sorted(measured, key=_place)}),
        protocol=asked.protocol,
        asked=asked.asked,
        seconds=0.0,
        examples=tuple(task.examples(task.asked, answers, Thumbnails(folder))),
        facts=found.facts,
        calibration=calibration_of(found.metrics[0]),
    )


def _place(baseline: str) -> tuple[bool, str]:
    """What is common to all tasks first, then a task's own constants."""
    return baseline not in BASELINES, baseline


def _shares(asked: Sequence[_Asked]) -> dict[str, float]:
    """Each task's part of the questions: by it the time that tasks share is divided."""
    counts = {one.task.title: len(one.runs[""]) for one in asked}
    return {title: count / sum(counts.values()) for title, count in counts.items()}


def _described(
    asker: RequestRunner, about: Mapping[str, str], fingerprint: str, asked: Sequence[_Asked]
) -> dict[str, str]:
    model = asker.model
    known = {"name": type(model).__name__}
    if isinstance(model, Endpoint):
        heard = Counter(_who(told) for one in asked for told in one.responses.told)
        known |= {"name": model.settings.model, "endpoint": model.settings.url}
        known |= {"answered by": ", ".join(f"{who} ({times:,})" for who, times in heard.most_common())}
    if asker.scoring:
        known["scored by"] = asker.scoring
    if isinstance(model, Model):
        known["family"] = model.config.chosen()
    if isinstance(model, nn.Module):
        known["parameters"] = str(sum(one.numel() for one in model.parameters()))
    if fingerprint:
        known["fingerprint"] = fingerprint
    return known | dict(about)


def _who(told: Mapping[str, object]) -> str:
    """The model that an endpoint says has answered, with the fingerprint of its system."""
    return " ".join(str(told[name]) for name in ("model", "fingerprint") if name in told) or "unnamed"


def _expect_unique(tasks: Sequence[Task]) -> None:
    met: dict[str, str] = {}
    for task in tasks:
        if (name := _file_name(task).lower()) in met:
            raise RecipeError(f"two tasks are called '{met[name]}' and '{task.title}'; give one of them another `name`")
        met[name] = task.title


def _file_name(task: Task) -> str:
    return answers_file(Path(), task.title).stem


def _bars(show: bool) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    return Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True), disable=not show
    )


@contextmanager
def _as_it_was(model: object) -> Iterator[None]:
    """Puts a module back into training mode, if it was in it: asking puts it into evaluation mode."""
    was_training = isinstance(model, nn.Module) and model.training
    try:
        yield
    finally:
        if was_training and isinstance(model, nn.Module):
            model.train()
