"""What every task promises, found by walking the folder; it stands in `chiasm.contracts`.

Here alone: the built-in ones on a world that knows what is true, exactly."""

from __future__ import annotations

from pathlib import Path

import pytest

from chiasm.contracts.contract import Contract, Trial, contracts_of
from chiasm.contracts.known_answers import right_answer, right_words
from chiasm.evaluation.choice import Choice
from chiasm.evaluation.request import Broken, EmbedRequest, GenerateRequest, Response, ScoreOrGenerate, ScoreRequest
from chiasm.evaluation.statistics import figure_of, scores_of
from chiasm.evaluation.task import Task
from tests.contracts.task_data import LABELS, answer_to, is_true, label_of, made, right_answers


def _perfect(task: Task) -> list[Response]:
    found = [right_answer(request, LABELS) for request in task.requests]
    assert all(response is not None for response in found)
    return [response for response in found if response is not None]


EVERY = pytest.mark.parametrize("name", Task.built_in())


def test_the_walk_finds_the_tasks() -> None:
    assert {"retrieval", "pairs", "probes", "classification"} <= set(Task.built_in())


@pytest.mark.parametrize("contract", list(contracts_of(Task)), ids=lambda contract: contract.__name__)
@EVERY
def test_a_task_keeps_the_contract(name: str, contract: Contract, tmp_path: Path) -> None:
    contract(Trial(Task.choose(name), tmp_path))


@EVERY
def test_what_is_right_is_what_the_data_say(name: str) -> None:
    """Of every request, in either form: what the task holds right, against the world that it was made of."""
    task = made(Task.choose(name))
    checked = 0
    for request in task.requests:
        if isinstance(request, ScoreRequest):
            for column, phrasings in enumerate(request.texts):
                assert all(is_true(request.images[0], text) == (column in request.true) for text in phrasings)
            checked += 1
        if isinstance(request, ScoreOrGenerate):
            assert request.choices[request.true[0]] == answer_to(request.words)
        elif isinstance(request, GenerateRequest):
            assert request.references == right_answers(request)
            checked += 1
        elif isinstance(request, EmbedRequest):
            assert request.kind == label_of(request.images[0])
            checked += 1
    assert checked == len(task.requests)


@EVERY
def test_a_perfect_model_gets_the_best(name: str) -> None:
    task = made(Task.choose(name))
    metrics = task.measure(task.requests, _perfect(task)).metrics
    best = {metric.name: metric.best for metric in metrics}
    for score in scores_of(metrics, {}):
        assert score.value == pytest.approx(best[score.name], abs=1e-5), (score.name, score.group)
        assert (score.ties, score.failed, score.unparsed) == (0, 0, 0)
    if isinstance(task, Choice) and isinstance(task.requests[0], ScoreOrGenerate):
        words = [right_words(task, request) for request in task.requests if isinstance(request, ScoreOrGenerate)]
        for score in scores_of(task.measure(task.requests, words).metrics, {}):
            assert score.value == 1, score.name
            assert score.lenient is not None
            assert (score.lenient.value, score.unparsed) == (1, 0)


@EVERY
def test_a_sample_that_cannot_be_read_counts_as_wrong(name: str) -> None:
    kind = Task.choose(name)
    whole = made(kind)
    key = whole.data[3].key
    task = made(kind, broken=(key,))
    (broken,) = [request for request in task.requests if isinstance(request, Broken)]
    assert f"{key} is broken" in broken.reason
    metrics = task.measure(task.requests, _perfect(task)).metrics
    assert figure_of(metrics[0]) < metrics[0].best
    assert metrics[0].items.failed_I.sum() == 1
    assert metrics[0].chance_I[metrics[0].items.failed_I].sum() == 0, "no luck without an answer"
    alike = task.measure(task.requests, [request.constant() for request in task.requests]).metrics
    for score in scores_of(alike, {}):
        assert score.value == pytest.approx(score.chance, abs=1e-9), "unread samples move chance and constant alike"


def test_the_world_has_all_labels() -> None:
    task = made(Task.choose("linear_probe"))
    assert {request.kind for request in task.requests} == set(LABELS)
