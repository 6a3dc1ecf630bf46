"""What every task promises, found by walking the folder."""

from __future__ import annotations

import importlib
import json
import types
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest

from chiasm.config import dump, parse
from chiasm.data.box_formats.kosmos import Kosmos
from chiasm.data.sample import Sample, Text
from chiasm.data.source import Source
from chiasm.data.sources.scenes import Scenes
from chiasm.errors import DataError
from chiasm.evaluation.choice import Choice
from chiasm.evaluation.protocol import requests_hash
from chiasm.evaluation.request import Broken, EmbedRequest, GenerateRequest, Response, ScoreOrGenerate, ScoreRequest
from chiasm.evaluation.run import evaluate
from chiasm.evaluation.statistics import figure_of, reported_kinds, scores_of
from chiasm.evaluation.task import Task
from tests.contracts.task_data import (
    LABELS,
    answer_to,
    is_true,
    label_of,
    made,
    oracles,
    perfect,
    perfect_words,
    right_answers,
)
from tests.evaluation.fakes import Listed, picture

EVERY = pytest.mark.parametrize("name", Task.names())
BEST = {"CIDEr": 10.0}  # of metrics whose best is not 1


@EVERY
def test_a_task_says_in_one_line_what_it_asks(name: str) -> None:
    kind = Task.choose(name)
    first = (importlib.import_module(kind.__module__).__doc__ or "").strip().splitlines()[0]
    assert len(first) > 20
    assert kind.__doc__


def test_the_walk_finds_the_tasks() -> None:
    assert {"retrieval", "pairs", "probes", "classification"} <= set(Task.names())


@EVERY
def test_requests_have_keys_of_their_own_and_are_made_again_alike(name: str) -> None:
    task = made(Task.choose(name))
    keys = [request.key for request in task.build_all_requests()]
    assert len(set(keys)) == len(keys) >= 12
    assert keys == [request.key for request in made(Task.choose(name)).requests]


@EVERY
def test_a_constant_scorer_gets_exactly_chance(name: str) -> None:
    """All candidates alike, the same embedding for all, no words: every figure is chance, over all and by kind."""
    task = made(Task.choose(name))
    metrics = task.measure(task.requests, [request.constant() for request in task.requests]).metrics
    chosen = any(request.verbs != ("generate",) for request in task.requests)
    for score in scores_of(metrics, {}):
        assert score.value == pytest.approx(score.chance, abs=1e-9), (score.name, score.group)
        assert 0 <= score.chance < 0.9
        assert score.failed == 0
        assert score.ties == float(chosen), "where there are candidates, all tie"
        assert (score.chance > 0) == chosen
    for metric in metrics:
        if metric.weight_I is None and metric.corpus is None:
            np.testing.assert_allclose(metric.credit_I, metric.chance_I, atol=1e-9, err_msg=metric.name)


@pytest.mark.parametrize("levels", [0, 3])
@EVERY
def test_chance_is_what_random_answers_get(name: str, levels: int) -> None:
    """The stated chance against 50 rounds of drawn scores, of which with so many levels several tie: a wrong chance
    could agree with a constant's wrong credit."""
    task = made(Task.choose(name))
    alike = [request.constant() for request in task.requests]
    metrics = task.measure(task.requests, alike).metrics
    if not all(isinstance(request, ScoreRequest) for request in task.requests):
        embeds = any(isinstance(request, EmbedRequest) for request in task.requests)
        assert set(metrics[0].chance_I.round(12)) == {round(1 / len(LABELS), 12) if embeds else 0}
        return
    rng = np.random.default_rng(0)

    def drawn(shape: tuple[int, ...]) -> Response:
        return (rng.integers(0, levels, shape) if levels else rng.random(shape)).astype(np.float32)

    shapes = [np.shape(response) for response in alike if isinstance(response, np.ndarray)]
    rounds = [
        [figure_of(metric) for metric in task.measure(task.requests, [drawn(shape) for shape in shapes]).metrics]
        for _ in range(50)
    ]
    chances = [score.chance for score in scores_of(metrics, {}) if not score.group]
    errors = np.std(rounds, axis=0) / np.sqrt(len(rounds))
    for metric, mean, chance, error in zip(metrics, np.mean(rounds, axis=0), chances, errors, strict=True):
        # The mean of ratios is not quite the ratio of means.
        assert abs(mean - chance) < 5 * error + (0.01 if metric.weight_I is not None else 1e-9), metric.name


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
    metrics = task.measure(task.requests, [perfect(request) for request in task.requests]).metrics
    for score in scores_of(metrics, {}):
        assert score.value == pytest.approx(BEST.get(score.name, 1.0), abs=1e-5), (score.name, score.group)
        assert (score.ties, score.failed, score.unparsed) == (0, 0, 0)
    if isinstance(task, Choice) and isinstance(task.requests[0], ScoreOrGenerate):
        words = [perfect_words(task, request) for request in task.requests if isinstance(request, ScoreOrGenerate)]
        for score in scores_of(task.measure(task.requests, words).metrics, {}):
            assert score.value == 1, score.name
            assert score.lenient is not None
            assert (score.lenient.value, score.unparsed) == (1, 0)


@EVERY
def test_one_right_answer_that_turns_wrong_costs_something(name: str) -> None:
    """Each item counts: every metric that does not look deeper than the first place falls below its best."""
    task = made(Task.choose(name))
    best = [perfect(request) for request in task.requests]
    items = [at for at, request in enumerate(task.requests) if not getattr(request, "to_learn_from", False)]
    headline = figure_of(task.measure(task.requests, best).metrics[0])
    for at in items[:4]:
        wrong = list(best)
        request, right = task.requests[at], best[at]
        if isinstance(request, EmbedRequest):
            wrong[at] = np.roll(np.asarray(right), 1, axis=1)
        else:
            wrong[at] = 1 - right if isinstance(right, np.ndarray) else "no such thing"
        assert figure_of(task.measure(task.requests, wrong).metrics[0]) < headline, request.key


@EVERY
def test_a_sample_that_cannot_be_read_counts_as_wrong(name: str) -> None:
    kind = Task.choose(name)
    whole = made(kind)
    key = whole.data[3].key
    task = made(kind, broken=(key,))
    (broken,) = [request for request in task.requests if isinstance(request, Broken)]
    assert f"{key} is broken" in broken.reason
    metrics = task.measure(task.requests, [perfect(request) for request in task.requests]).metrics
    assert figure_of(metrics[0]) < BEST.get(metrics[0].name, 1.0)
    assert metrics[0].items.failed_I.sum() == 1
    assert metrics[0].chance_I[metrics[0].items.failed_I].sum() == 0, "no luck without an answer"
    alike = task.measure(task.requests, [request.constant() for request in task.requests]).metrics
    for score in scores_of(alike, {}):
        assert score.value == pytest.approx(score.chance, abs=1e-9), "unread samples move chance and constant alike"


@EVERY
def test_models_of_every_verb_are_evaluated_beside_blind_and_shuffled(name: str, tmp_path: Path) -> None:
    task = made(Task.choose(name))
    found = oracles(task)
    assert found
    hashes = set()
    for oracle in found:
        folder = tmp_path / type(oracle).__name__
        result = evaluate(oracle, [task], folder, progress=False).results[0]  # type: ignore[arg-type]  # by its verb
        hashes.add(result.requests)
        assert {"blind", "shuffled", *task.constants()} == result.headline.baselines.keys()
        assert task.constants(), "an answer that nobody has to look for"
        best = BEST.get(result.headline.name, 1.0)
        assert result.headline.value == pytest.approx(best, abs=1e-5)
        blind, shuffled = (result.headline.baselines[name] for name in ("blind", "shuffled"))
        embeds = any(isinstance(request, EmbedRequest) for request in task.requests)
        if not embeds:  # a probe is fitted on grey and on exchanged images too
            limit = result.headline.chance if hasattr(oracle, "score") else 0
            assert blind == pytest.approx(limit, abs=1e-9), "grey tells nothing"
        assert shuffled < best
        assert result.examples
        lines = (folder / f"answers/{name}.jsonl").read_text().splitlines()
        assert {json.loads(line)["key"] for line in lines} >= set(
            task.measure(task.requests, [perfect(request) for request in task.requests]).metrics[0].items.keys
        )
    assert len(hashes) == 1, "in whatever form it is asked"


FILES = {"judge", "tags", "classes"}  # entries that name files; their content is told by tests of their own
OTHER: dict[tuple[str, str], Any] = {
    ("existence", "polls"): "questions",
    ("existence", "each"): 2,
    ("existence", "template"): "Can you see {} here?",
    ("existence", "splits"): ("popular",),
    ("multiple_choice", "order"): "given",
    ("probes", "by"): "group",
    ("captioning", "metrics"): ("BLEU", "CIDEr"),
    ("captioning", "prompt"): "What is this?",
    ("grounding", "prompt"): "Find {phrase}.",
    ("grounding", "boxes"): Kosmos(),
    ("vqa", "prompt"): "{question} In a word.",
    ("ocr", "prompt"): "{question} In a word.",
    ("ocr", "metrics"): ("exact match",),
    ("retrieval", "k"): (1, 2),
    ("linear_probe", "shots"): (2,),
    ("classification", "templates"): ("one {}.",),
}
# Data count by their content: what a request holds of them. Grounding's give but a baseline.
UNSCORED = {("grounding", "train")}


def altered(kind: type[Task], name: str) -> dict[str, Any]:
    """Another value for each entry that a score may depend on; fails for one of which this does not know any."""
    task, hints, found = made(kind), get_type_hints(kind), dict[str, Any]()
    for field in fields(kind):
        value, hint = getattr(task, field.name), hints[field.name]
        if field.name in ("name", "data") or (name, field.name) in UNSCORED or field.name in FILES:
            continue
        if (name, field.name) in OTHER:
            found[field.name] = OTHER[name, field.name]
        elif isinstance(value, Listed):
            found[field.name] = replace(value, samples=value.samples[:-6])
        else:
            found[field.name] = _another(value, hint)
        assert found[field.name] != value, field.name
    return found


def _another(value: Any, hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(one for one in get_args(hint) if one is not type(None))
    if get_origin(hint) is Literal:
        return next(one for one in get_args(hint) if one != value)
    if isinstance(value, bool):
        return not value
    if hint is int:
        return (value or 0) + 7
    if hint is float:
        return (value or 1.0) / 2
    assert hint is str, f"say in OTHER what else an entry of the type {hint} may be"
    return f"{value} please"


@EVERY
def test_the_hash_moves_with_every_setting_that_matters_and_not_with_the_name(name: str) -> None:
    kind = Task.choose(name)
    task = made(kind)
    first = requests_hash(task, task.requests)
    again = made(kind, name="another")
    assert requests_hash(again, again.requests) == first
    hashes = {"": first}
    for entry, value in altered(kind, name).items():
        other = replace(task, **{entry: value})
        hashes[entry] = requests_hash(other, other.requests)
    elsewhere = made(kind, start=100)
    hashes["data"] = requests_hash(elsewhere, elsewhere.requests)
    assert isinstance(task.data, Listed)
    others = tuple(repainted(sample) for sample in task.data.samples)
    repaint = replace(task, data=replace(task.data, samples=others))
    hashes["images under the same keys"] = requests_hash(repaint, repaint.requests)
    assert len(set(hashes.values())) == len(hashes), hashes


def repainted(sample: Sample) -> Sample:
    """The sample with other images, and all else as it is."""
    return replace(
        sample,
        parts=tuple(part if isinstance(part, Text) else picture(7777 + at) for at, part in enumerate(sample.parts)),
    )


@EVERY
def test_a_sample_that_lacks_what_is_needed_is_not_passed_over_in_silence(name: str) -> None:
    """Where a task cannot ask about a sample, that is an item which counts as wrong; else it asks nothing of it."""
    task = made(Task.choose(name))
    bare = Sample("bare", (picture(5000),))
    assert isinstance(task.data, Listed)
    more = replace(task, data=replace(task.data, samples=(*task.data.samples, bare)))
    try:
        lacks = not list(task.construct_requests(bare)) and ""
    except DataError as error:
        lacks = str(error)
    broken = [request.reason for request in more.requests if isinstance(request, Broken)]
    assert broken == ([lacks] if lacks else [])


@EVERY
def test_dump_and_parse_are_inverse(name: str) -> None:
    """Of the task as it is, and with every entry changed."""
    kind = Task.choose(name)
    sources = {
        field.name: Scenes(count=5 + at)
        for at, field in enumerate(fields(kind))
        if isinstance(getattr(made(kind), field.name), Source)
    }
    task = replace(made(kind), **sources)  # type: ignore[arg-type]  # each a source
    changes: list[dict[str, Any]] = [{}, {"name": "another"}]
    changes += [{entry: value} for entry, value in altered(kind, name).items() if entry not in sources]
    for change in changes:
        other = replace(task, **change)
        entries = json.loads(json.dumps(dump(other)))
        assert entries["task"] == name
        assert parse(Task, entries) == other  # type: ignore[type-abstract]  # a choice of the package is built
        for entry in change:
            assert entries[entry] != dump(task)[entry], entry


@EVERY
def test_scores_by_kind_are_of_the_kinds_of_the_requests(name: str) -> None:
    task = made(Task.choose(name))
    kinds = {request.kind for request in task.requests}
    for metric in task.measure(task.requests, [perfect(request) for request in task.requests]).metrics:
        assert set(reported_kinds(metric)) <= kinds
        assert set(metric.items.kinds) <= kinds | {""}


def test_the_world_has_all_labels() -> None:
    task = made(Task.choose("linear_probe"))
    assert {request.kind for request in task.requests} == set(LABELS)
