"""What every task promises: questions that can be told apart, figures that nobody wins without looking and that the
right answers win, and a hash that says what was asked.

Each is tried on the entries of its `example`; what is right is known from the requests, see `known_answers`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from chiasm.config import dump, parse
from chiasm.contracts.contract import Trial, instance, require
from chiasm.contracts.known_answers import (
    KnownReplies,
    KnownScores,
    models_that_know,
    right_answers,
    with_one_reference,
)
from chiasm.contracts.other_settings import with_other_settings
from chiasm.data.image import Image
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.errors import DataError
from chiasm.evaluation.comparison import answers_file
from chiasm.evaluation.protocol import requests_hash
from chiasm.evaluation.request import Broken, EmbedRequest, Request, Response, ScoreRequest
from chiasm.evaluation.run import evaluate
from chiasm.evaluation.statistics import figure_of, scores_of
from chiasm.evaluation.task import MetricCounts, Task

BASE = Task

_ROUNDS = 50
_EXACT = 1e-9
_ROUNDED = 1e-3  # of answers in words: a box's corners have a few digits


@dataclass(frozen=True)
class _Half(Source):
    """The first half of another source."""

    whole: Source

    def __len__(self) -> int:
        return max(1, len(self.whole) // 2)

    def __getitem__(self, index: int) -> Sample:
        return self.whole[index]


@dataclass(frozen=True)
class _Damaged(Source):
    """Another source, of which one sample cannot be read."""

    whole: Source
    lost: int

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> Sample:
        if index == self.lost:
            raise DataError(f"sample {index} is broken on purpose")
        return self.whole[index]


def asks_what_can_be_told_apart(trial: Trial[type[Task]]) -> None:
    """It asks something, each question under a key of its own, and the same again."""
    task, again = instance(trial), instance(trial)
    require(bool(task.requests), "it asks nothing")  # of its example
    keys = [request.key for request in task.build_all_requests()]
    require(len(set(keys)) == len(keys), f"two questions share the key '{max(keys, key=keys.count)}'")
    require(
        keys == [request.key for request in again.requests], "a second task of the same entries asks something else"
    )


def measures_every_item(trial: Trial[type[Task]]) -> None:
    """Its metrics have one credit an item, from 0 to the metric's best, whatever the model that never looks says."""
    task = instance(trial)
    require(bool(task.constants()), "constants() gives no answer that nobody has to look for")
    kinds = {request.kind for request in task.requests}
    for name, responses in task.constants().items():
        for metric in _metrics(task, task.requests, responses):
            items, count = metric.items, len(metric.items.keys)
            require(count > 0, f"{metric.name} has no items")
            require(len(set(items.keys)) == count, f"{metric.name}: two items share a key")
            require(
                metric.credit_I.shape == metric.chance_I.shape == (count,), f"{metric.name}: not one credit an item"
            )
            others = sorted(set(items.kinds) - kinds - {""})
            require(not others, f"{metric.name} has items of the kind '{''.join(others[:1])}', which no question is of")
            most = float("inf") if metric.weight_I is not None else metric.best + _ROUNDED
            inside = (metric.credit_I >= 0).all() and (metric.credit_I <= most).all()
            require(bool(inside), f"{metric.name}: the baseline '{name}' earns less than 0, or more than the best")


def a_constant_answer_gets_chance(trial: Trial[type[Task]]) -> None:
    """A model that answers all alike gets exactly what chance does, over all and by kind: ties are split, not won."""
    task = instance(trial)
    _require_chance(task, task.requests)


def chance_is_what_random_scores_get(trial: Trial[type[Task]]) -> None:
    """Chance, as it is stated, is what drawn scores earn in the mean, with many ties among them and with none."""
    task = instance(trial)
    alike = [request.constant() for request in task.requests]
    shapes = [response.shape for response in alike if isinstance(response, np.ndarray)]
    if len(shapes) != len(alike) or not all(isinstance(request, ScoreRequest) for request in task.requests):
        return
    metrics = _metrics(task, task.requests, alike)
    chances = [score.chance for score in scores_of(metrics, {}) if not score.group]
    rng = np.random.default_rng(0)
    for levels in (0, 3):
        rounds = []
        for _ in range(_ROUNDS):
            drawn = [rng.integers(0, levels, shape) if levels else rng.random(shape) for shape in shapes]
            scores = [scores.astype(np.float32) for scores in drawn]
            rounds.append([figure_of(metric) for metric in _metrics(task, task.requests, scores)])
        errors = np.std(rounds, axis=0) / _ROUNDS**0.5
        for metric, mean, chance, error in zip(metrics, np.mean(rounds, axis=0), chances, errors, strict=True):
            rounding = 0.02 if metric.weight_I is not None else _EXACT  # the mean of ratios is not the ratio of means
            require(
                abs(mean - chance) < 5 * error + rounding,
                f"{metric.name}: random scores earn {mean:.4f} in the mean, but chance is said to be {chance:.4f}",
            )


def right_answers_get_the_best(trial: Trial[type[Task]]) -> None:
    """What the requests say is right earns the best of every metric, over all and by kind."""
    task = instance(trial)
    requests = with_one_reference(task.requests)
    right = right_answers(requests)
    if right is None:
        return
    metrics = _metrics(task, requests, right)
    best = {metric.name: metric.best for metric in metrics}
    for score in scores_of(metrics, {}):
        where = f"{score.name}{f' of {score.group}' if score.group else ''}"
        require(
            abs(score.value - best[score.name]) < _ROUNDED,
            f"{where}: the right answers earn {score.value:.4f}, not {best[score.name]:g}",
        )
        require(not score.failed and not score.unparsed, f"{where}: right answers count as failed or as unread")


def a_wrong_answer_costs_something(trial: Trial[type[Task]]) -> None:
    """Where one right answer turns wrong, the first metric falls."""
    task = instance(trial)
    right = right_answers(task.requests)
    if right is None:
        return
    best = figure_of(_metrics(task, task.requests, right)[0])
    items = [at for at, request in enumerate(task.requests) if not request.to_learn_from]
    for at in items[:4]:
        wrong, request = list(right), task.requests[at]
        if isinstance(request, EmbedRequest):
            wrong[at] = np.roll(np.asarray(right[at]), 1, axis=1)
        elif request.verbs:
            response = right[at]
            wrong[at] = 1 - response if isinstance(response, np.ndarray) else "no such thing"
        found = figure_of(_metrics(task, task.requests, wrong)[0])
        require(found < best, f"a wrong answer to '{request.key}' costs nothing: {found:.4f} as before")


def what_cannot_be_read_counts_as_wrong(trial: Trial[type[Task]]) -> None:
    """A sample that cannot be read is an item that failed, with no credit and no chance, for the right answers too."""
    whole = instance(trial)
    if len(whole.data) < 3:
        return
    task = replace(whole, data=_Damaged(whole.data, 1), limit=None)
    requests = with_one_reference(task.requests)
    broken = [request for request in requests if isinstance(request, Broken)]
    require(len(broken) == 1, f"of one sample that cannot be read {len(broken)} requests say so")
    right = right_answers(requests)
    for responses in ([request.constant() for request in requests], right):
        if responses is None:
            continue
        metric = _metrics(task, requests, responses)[0]
        failed_I = metric.items.failed_I
        require(int(failed_I.sum()) == 1, f"{metric.name}: {int(failed_I.sum())} items failed, not the one")
        lost = float(metric.credit_I[failed_I].sum()), float(metric.chance_I[failed_I].sum())
        require(lost == (0, 0), f"{metric.name}: an item that was not asked earns {lost[0]}, by chance {lost[1]}")
    _require_chance(task, requests)


def its_hash_says_what_was_asked(trial: Trial[type[Task]]) -> None:
    """The hash of what is asked moves with the samples and with every setting that a score may depend on, and with
    nothing else: not with the task's name."""
    task = instance(trial)
    first = _hash(task)
    require(_hash(instance(trial)) == first, "a second task of the same entries has another hash")
    require(_hash(replace(task, name="another")) == first, "the hash depends on the task's name; see settings()")
    require(
        len(task.data) < 2 or _hash(replace(task, data=_Half(task.data))) != first,
        "half of the samples give the same hash",
    )
    hashes = {first: "the settings of its example"}
    for name, other in with_other_settings(trial).items():
        found = _hash(other)
        entry = f"{name}={getattr(other, name)!r}"
        require(found not in hashes, f"{entry} gives the same hash as {hashes.get(found)}; see settings()")
        hashes[found] = entry


def each_setting_is_written_and_read_back(trial: Trial[type[Task]]) -> None:
    """Entries that are written down, with another value of each setting in turn, give the same task again."""
    task, kind = instance(trial), trial.subject
    for name, other in {"name": replace(task, name="another"), **with_other_settings(trial)}.items():
        entries = json.loads(json.dumps(dump(other)))
        require(entries.get("task") == kind.chosen_name(), f"it is written as the task '{entries.get('task')}'")
        require(entries[name] != json.loads(json.dumps(dump(task)))[name], f"another '{name}' is written as the same")
        again = parse(kind.base, entries)
        names = [entry.name for entry in fields(task)]
        unlike = [each for each in names if getattr(again, each) != getattr(other, each)]
        require(not unlike, f"with another '{name}', what is written gives another {', '.join(unlike)}")


def is_evaluated_beside_blind_and_shuffled(trial: Trial[type[Task]]) -> None:
    """A model that knows the right answers is evaluated: grey images give it no more than chance, exchanged ones less
    than the best. Asked for scores or in words, it is asked the same."""
    task = instance(trial)
    if right_answers(task.requests) is None:
        return
    hashes = set()
    for model in models_that_know(task):
        folder = trial.folder / type(model).__name__
        result = evaluate(model, [task], folder, progress=False).results[0]
        hashes.add(result.requests)
        missing = {"blind", *task.constants()} - result.headline.baselines.keys()
        require(not missing, f"the evaluation has no baseline '{''.join(sorted(missing)[:1])}'")
        require(bool(result.examples), "examples() shows nothing")
        _require_answers(task, folder)
        best = _best_of(task)
        if model.contradicted or not isinstance(model, (KnownScores, KnownReplies)):
            continue  # a probe is fitted on grey and on exchanged images too
        found, who = result.headline.value, f"{result.headline.name}: a {type(model).__name__}"
        require(abs(found - best) < _ROUNDED, f"{who} earns {found:.4f}, not {best:.4f}")
        if all(request.all_images for request in task.requests if request.verbs):
            blind = result.headline.baselines["blind"]
            require(blind <= result.headline.chance + _ROUNDED, f"{who} earns {blind:.4f} on grey images, above chance")
        shuffled = result.headline.baselines.get("shuffled", -1.0)
        require(shuffled < best, f"{who} earns {shuffled:.4f} on exchanged images too")
    require(len(hashes) <= 1, "the hash depends on the model that is asked")


def _require_chance(task: Task, requests: Sequence[Request]) -> None:
    alike = [request.constant() for request in requests]
    if any(isinstance(response, Image) for response in alike):  # grey may be what was asked for
        return
    metrics = _metrics(task, requests, alike)
    for score in scores_of(metrics, {}):
        require(
            abs(score.value - score.chance) < _EXACT,
            f"{score.name}{f' of {score.group}' if score.group else ''}: the same answer to all earns "
            f"{score.value:.4f}, but chance is {score.chance:.4f}",
        )
    for metric in metrics:
        if metric.weight_I is None and metric.corpus is None:
            apart = np.abs(metric.credit_I - metric.chance_I)
            worst = metric.items.keys[int(apart.argmax())]
            require(bool((apart < _EXACT).all()), f"{metric.name}: of '{worst}' the same answer to all is not chance")


def _require_answers(task: Task, folder: Path) -> None:
    lines = answers_file(folder, task.title).read_text(encoding="utf-8").splitlines()
    alike = [request.constant() for request in task.requests]
    missing = set(_metrics(task, task.requests, alike)[0].items.keys) - {json.loads(line)["key"] for line in lines}
    require(not missing, f"the answers do not hold the item '{''.join(sorted(missing)[:1])}'")


def _best_of(task: Task) -> float:
    """What a model's right answers are worth, with all references that there are."""
    known = right_answers(task.requests)
    assert known is not None
    return figure_of(_metrics(task, task.requests, known)[0])


def _metrics(task: Task, requests: Sequence[Request], responses: Sequence[Response]) -> Sequence[MetricCounts]:
    metrics = task.measure(requests, responses).metrics
    require(bool(metrics), "measure() gives no metric")
    return metrics


def _hash(task: Task) -> str:
    return requests_hash(task, task.requests)
