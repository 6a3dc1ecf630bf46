"""What every task promises, found by walking the folder."""

from __future__ import annotations

import importlib

import pytest

from chiasm.evaluation.task import Task


@pytest.mark.parametrize("name", Task.names())
def test_a_task_says_in_one_line_what_it_asks(name: str) -> None:
    kind = Task.choose(name)
    first = (importlib.import_module(kind.__module__).__doc__ or "").strip().splitlines()[0]
    assert len(first) > 20
    assert kind.__doc__


def test_the_walk_finds_the_tasks() -> None:
    assert {"retrieval", "pairs", "probes", "classification"} <= set(Task.names())
