"""What every task promises: requests with distinct keys, and metrics that a constant scorer does not win."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from chiasm.contracts.contract import instance, require
from chiasm.evaluation.request import ScoreRequest
from chiasm.evaluation.task import Task

BASE = Task


def asks_what_can_be_told_apart(kind: type[Task], folder: Path) -> None:
    """It asks something, each question under a key of its own, and the same again."""
    task, again = instance(kind, folder), instance(kind, folder)
    require(bool(task.requests), "it asks nothing")  # of its example
    keys = [request.key for request in task.build_all_requests()]
    require(len(set(keys)) == len(keys), f"two questions share the key '{max(keys, key=keys.count)}'")
    require(
        keys == [request.key for request in again.requests], "a second task of the same entries asks something else"
    )


def measures_every_item(kind: type[Task], folder: Path) -> None:
    """Its metrics have one credit an item, 0 or more, whatever the model that never looks says."""
    task = instance(kind, folder)
    for name, answers in task.constants().items():
        measured = task.measure(task.requests, answers)
        require(bool(measured.metrics), "measure() gives no metric")
        for metric in measured.metrics:
            count = len(metric.items.keys)
            require(count > 0, f"{metric.name} has no items")
            require(
                metric.credit_I.shape == metric.chance_I.shape == (count,), f"{metric.name}: not one credit an item"
            )
            require(bool((metric.credit_I >= 0).all()), f"{metric.name}: the baseline '{name}' earns less than nothing")


def a_constant_scorer_gets_chance(kind: type[Task], folder: Path) -> None:
    """A model that scores every text alike earns what chance does: ties are split, not won."""
    task = instance(kind, folder)
    if not all(isinstance(request, ScoreRequest) for request in task.requests):
        return
    alike = [
        np.zeros((len(request.images), len(request.texts)), np.float32)
        for request in task.requests
        if isinstance(request, ScoreRequest)
    ]
    for metric in task.measure(task.requests, alike).metrics:
        if metric.corpus is None and metric.weight_I is None:
            earned, chance = float(metric.credit_I.mean()), float(metric.chance_I.mean())
            require(
                abs(earned - chance) < 1e-9,
                f"{metric.name}: equal scores for all texts earn {earned:.4f}, but chance is {chance:.4f}",
            )
