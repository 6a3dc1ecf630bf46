"""Puts the requests of tasks to a model, those of its baselines beside them, and keeps everything as it comes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from torch import nn

from chiasm.errors import CapabilityError, RecipeError
from chiasm.evaluation import outcomes
from chiasm.evaluation.baselines import BASELINES, Baseline, blind, shuffled
from chiasm.evaluation.comparison import answers_file, write_tasks
from chiasm.evaluation.examples import ThumbnailWriter
from chiasm.evaluation.instance import Instance
from chiasm.evaluation.protocol import fingerprint as fingerprint_of
from chiasm.evaluation.protocol import processor_hash, protocol, requests_hash
from chiasm.evaluation.request import Request
from chiasm.evaluation.request_runner import DEFAULT_OPTIONS, Askable, RequestRunner, RunOptions, lack
from chiasm.evaluation.response_cache import ResponseCache
from chiasm.evaluation.result import Evaluation, TaskResult
from chiasm.evaluation.scoring import scoring
from chiasm.evaluation.share import Share
from chiasm.evaluation.statistics import calibration_of, figure_of, reported_kinds, scores_of
from chiasm.evaluation.task import Task
from chiasm.models.model import Model
from chiasm.models.remote import RemoteModel, Usage
from chiasm.progress import Bars

CACHE = "cache"  # of embeddings and responses; an evaluation resumes from it, and it may be deleted at any time


def evaluate(
    model: Askable,
    tasks: Sequence[Task],
    folder: Path,
    *,
    about: Mapping[str, str] | None = None,
    fingerprint: str = "",
    baselines: Sequence[Baseline] = BASELINES,
    options: RunOptions = DEFAULT_OPTIONS,
    leave_out: bool = False,
    progress: bool = True,
) -> Evaluation:
    """Scores a model on tasks; writes results.json, answers/ and pictures/ into the folder and returns the results.

    What was embedded or answered in the folder before, by the same model under the same protocol, is not asked again.
    For a model that embeds, baselines cost next to nothing; for others "blind" and "shuffled" make every request anew.
    about: what results say of the model (name, step, checkpoint). fingerprint: of its weights; by default a hash of
    them. A model that is not a torch module and comes without one is asked everything anew.
    options: how it is asked; whatever its share, what other shares have not answered is asked here.
    leave_out: tasks that need a verb which the model lacks are left out, and the results say which, and why.
    Raises CapabilityError, before anything is asked, if the model lacks a verb that a task needs and `leave_out` is not
    given, or that all tasks need; RecipeError if there is no task, or two share a name; DataError if a task finds
    nothing to ask about; RemoteError if a remote model stops; TypeError for what is no list of tasks.
    """
    if not tasks:
        raise RecipeError("there is no task to evaluate the model on; give at least one")
    fingerprint = fingerprint or fingerprint_of(model)
    options = replace(options, share=Share())
    left_out = check(model, tasks, options, leave_out=leave_out)
    tasks = [task for task in tasks if task.title not in left_out]
    with _opened(model, tasks, folder, fingerprint, baselines, options, progress) as (runner, task_runs):
        shares, started = _shares(task_runs), time.perf_counter()
        if runner.jointly:
            runner.prepare([instance for task_run in task_runs for instance in task_run.instances()])
        jointly = time.perf_counter() - started
        results: list[TaskResult] = []
        for task_run in task_runs:
            started = time.perf_counter()
            runner.prepare(task_run.instances())
            result = _result(task_run, runner, baselines, folder)
            seconds = time.perf_counter() - started + jointly * shares[task_run.task.title]
            results.append(replace(result, seconds=round(seconds, 3)))
            described = _described(runner, about or {}, fingerprint, task_runs)
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
    options: RunOptions = DEFAULT_OPTIONS,
    leave_out: bool = False,
    progress: bool = True,
) -> None:
    """Makes one share of the requests, beside other processes that make theirs; `evaluate` then finds all responses."""
    fingerprint = fingerprint or fingerprint_of(model)
    left_out = check(model, tasks, options, leave_out=leave_out)
    tasks = [task for task in tasks if task.title not in left_out]
    with _opened(model, tasks, folder, fingerprint, baselines, options, progress) as (runner, task_runs):
        runner.prepare([instance for task_run in task_runs for instance in task_run.instances()])


def check(
    model: Askable, tasks: Sequence[Task], options: RunOptions = DEFAULT_OPTIONS, *, leave_out: bool = False
) -> dict[str, str]:
    """Raises, before anything is asked or trained, what `evaluate` would raise of the model and the tasks.

    Returns why the model cannot be asked tasks that are left out, by their titles; see `evaluate`.
    """
    if isinstance(tasks, Task) or not all(isinstance(task, Task) for task in tasks):
        raise TypeError(f"expected a list of tasks, such as [Pairs(source)], not {tasks!r:.80}")
    _expect_unique(tasks)
    scoring(model, options.score_by)
    if options.load is not None:
        for task in tasks:
            task.use_loader(options.load)
    lacks = {task.title: why for task in tasks if (why := lack(model, task))}
    if lacks and (not leave_out or len(lacks) == len(tasks)):
        title, why = next(iter(lacks.items()))
        mend = "no task is left" if leave_out else "leave the task out (`chiasm eval --leave-out-impossible` does)"
        raise CapabilityError(f"task '{title}' {why}; {mend} or choose another model")
    return lacks


def quick_scores(
    model: Askable, tasks: Sequence[Task], *, by_kind: bool = False, options: RunOptions = DEFAULT_OPTIONS
) -> dict[str, float]:
    """The scores alone, by "task: metric", for the evaluation of a model in training: no files, no baselines.

    Tasks keep their requests, so evaluating the same task objects again builds nothing anew.
    by_kind: also each kind's score, by "task: metric (kind)".
    Raises CapabilityError, RecipeError and DataError as `evaluate` does.
    """
    check(model, tasks, options)
    found: dict[str, float] = {}
    with Bars(Console(stderr=True), shown=False) as bars, _as_it_was(model):
        runner = RequestRunner(model, bars, options=options)
        caches = [ResponseCache() for _ in tasks]
        pairs = list(zip(tasks, caches, strict=True))
        runner.prepare([Instance(request, cache) for task, cache in pairs for request in task.requests])
        for task, cache in pairs:
            for metric in task.measure(task.requests, runner.responses(task.requests, cache)).metrics:
                found[f"{task.title}: {metric.name}"] = figure_of(metric)
                for kind, members in reported_kinds(metric).items() if by_kind else ():
                    found[f"{task.title}: {metric.name} ({kind})"] = figure_of(metric, members)
    return found


@dataclass(frozen=True)
class _TaskRun:
    """A task that is being evaluated: the requests of each of its runs, and the cache of the responses."""

    task: Task
    runs: Mapping[str, Sequence[Request]]
    cache: ResponseCache
    requests: str  # hashes: see chiasm.evaluation.protocol
    protocol: str

    def instances(self) -> list[Instance[Request]]:
        return [Instance(request, self.cache, run) for run, requests in self.runs.items() for request in requests]


@contextmanager
def _opened(
    model: Askable,
    tasks: Sequence[Task],
    folder: Path,
    fingerprint: str,
    baselines: Sequence[Baseline],
    options: RunOptions,
    progress: bool,
) -> Iterator[tuple[RequestRunner, list[_TaskRun]]]:
    """A runner and its tasks, which were checked, with their caches open."""
    write_tasks(tasks, folder)
    processor = processor_hash(model)
    identity = fingerprint and f"{fingerprint}-{processor}"
    root, share = folder / CACHE, options.share
    with Bars(Console(stderr=True), shown=progress) as bars, _as_it_was(model), ExitStack() as open_caches:
        runner = RequestRunner(model, bars, root, identity, options)
        task_runs: list[_TaskRun] = []
        for task in tasks:
            hashed, file = requests_hash(task, task.requests), f"{_file_name(task)}.jsonl"
            name = protocol(hashed, processor, runner.scoring)
            cache = ResponseCache(
                share.folder(root) / file,
                identity,
                name,
                [other / file for other in share.others(root)],
                images=folder / outcomes.IMAGES,
                keep_failed=options.keep_failed,
            )
            task_runs.append(_TaskRun(task, _runs(task, baselines), open_caches.enter_context(cache), hashed, name))
        if isinstance(model, RemoteModel):
            model.remember(usage for task_run in task_runs for usage in task_run.cache.usages)
        yield runner, task_runs


def _runs(task: Task, baselines: Sequence[Baseline]) -> dict[str, Sequence[Request]]:
    """What the model is asked: the task's requests as they are, and as altered for the baselines."""
    runs: dict[str, Sequence[Request]] = {"": task.requests}
    if "blind" in baselines:
        runs["blind"] = blind(task.requests)
    if "shuffled" in baselines and (exchanged := shuffled(task.requests)) is not None:
        runs["shuffled"] = exchanged
    return runs


def _result(task_run: _TaskRun, runner: RequestRunner, baselines: Sequence[Baseline], folder: Path) -> TaskResult:
    task, cache = task_run.task, task_run.cache
    responses = runner.responses(task_run.runs[""], cache)
    measured = {
        run: task.measure(task.requests, runner.responses(requests, cache, run)).metrics
        for run, requests in task_run.runs.items()
        if run
    }
    if "constant" in baselines:
        measured |= {name: task.measure(task.requests, known).metrics for name, known in task.constants().items()}
    found = task.measure(task.requests, responses)
    outcomes.write(found.metrics, answers_file(folder, task.title), outcomes.images_of(task.requests, responses))
    return TaskResult(
        task=task.chosen(),
        name=task.title,
        scores=scores_of(found.metrics, {run: measured[run] for run in sorted(measured, key=_place)}),
        protocol=task_run.protocol,
        requests=task_run.requests,
        seconds=0.0,
        examples=tuple(task.examples(task.requests, responses, ThumbnailWriter(folder))),
        facts=found.facts,
        calibration=calibration_of(found.metrics[0]),
    )


def _place(baseline: str) -> tuple[bool, str]:
    """What is common to all tasks first, then a task's own constants."""
    return baseline not in BASELINES, baseline


def _shares(task_runs: Sequence[_TaskRun]) -> dict[str, float]:
    """Each task's part of the requests: by it the time that tasks share is divided."""
    counts = {task_run.task.title: len(task_run.runs[""]) for task_run in task_runs}
    return {title: count / sum(counts.values()) for title, count in counts.items()}


def _described(
    runner: RequestRunner, about: Mapping[str, str], fingerprint: str, task_runs: Sequence[_TaskRun]
) -> dict[str, str]:
    model = runner.model
    description = {"name": type(model).__name__}
    if isinstance(model, RemoteModel):
        counts = Counter(_who(usage) for task_run in task_runs for usage in task_run.cache.usages)
        description |= model.description()
        description["answered by"] = ", ".join(f"{who} ({times:,})" for who, times in counts.most_common())
    if runner.scoring:
        description["scored by"] = runner.scoring
    if isinstance(model, Model):
        description["family"] = model.config.chosen()
    if isinstance(model, nn.Module):
        description["parameters"] = str(sum(parameter.numel() for parameter in model.parameters()))
    if fingerprint:
        description["fingerprint"] = fingerprint
    return description | dict(about)


def _who(usage: Usage) -> str:
    """The model that a server says has answered, with the fingerprint of its system."""
    return " ".join(str(usage[name]) for name in ("model", "fingerprint") if name in usage) or "unnamed"


def _expect_unique(tasks: Sequence[Task]) -> None:
    titles: dict[str, str] = {}
    for task in tasks:
        if (name := _file_name(task).lower()) in titles:
            first = titles[name]
            raise RecipeError(f"two tasks are called '{first}' and '{task.title}'; give one of them another `name`")
        titles[name] = task.title


def _file_name(task: Task) -> str:
    return answers_file(Path(), task.title).stem


@contextmanager
def _as_it_was(model: object) -> Iterator[None]:
    """Puts a module back into training mode, if it was in it: asking puts it into evaluation mode."""
    was_training = isinstance(model, nn.Module) and model.training
    try:
        yield
    finally:
        if was_training and isinstance(model, nn.Module):
            model.train()
