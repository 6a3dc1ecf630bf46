"""Evaluations of remote models: journalled as answers come, resumed, paid once, stopped in time."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chiasm.errors import CapabilityError, RemoteError
from chiasm.evaluation.run import evaluate
from chiasm.evaluation.task import Task
from chiasm.evaluation.tasks.pairs import Pairs
from chiasm.evaluation.tasks.probes import Probes
from chiasm.weights.endpoint import Encoding, Endpoint, EndpointSettings, connect
from tests.evaluation.fakes import COLOURS, sees, world
from tests.evaluation.test_run import run, score, unseconded
from tests.weights.served import Answer, images_of, likely, said, served, words_of


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chiasm.weights.endpoint.client._FIRST_WAIT", 0.01)


def endpoint(url: str, **entries: Any) -> Endpoint:
    lossless = {"pictures": Encoding("png"), "retries": 1, "concurrency": 4, "timeout": 5.0}
    return connect(EndpointSettings(url, "pictor", **{**lossless, **entries}))


def number_seen(body: dict[str, Any]) -> int:
    levels = np.asarray(images_of(body)[0])
    return int(levels[0, 0, 0]) * 256 + int(levels[0, 0, 1]) if levels[0, 0, 2] == 7 else -1


def right(body: dict[str, Any], _: int) -> Answer:
    """An oracle of the questions of `world`: the right choice's text, or a letter of it."""
    number = number_seen(body)
    return said(COLOURS[: 2 + number % 4][number % (2 + number % 4)] if number >= 0 else "I cannot tell")


def tasks(count: int = 12) -> list[Task]:
    return [Probes(world(count), form="words")]


def test_a_remote_model_is_scored_like_any_other(tmp_path: Path) -> None:
    with served(right) as server:
        found = run(endpoint(server.url), tasks(), tmp_path)
        asked = len(server.requests)
        assert asked == 3 * 12, "as it is, blind and shuffled"
        again = run(endpoint(server.url), tasks(), tmp_path)
        assert len(server.requests) == asked, "an answer that was paid is not asked again"
        assert unseconded(again) == unseconded(found)
        run(endpoint(server.url, temperature=0.5), tasks(), tmp_path, baselines=("constant",))
        assert len(server.requests) == asked + 12, "another protocol is another question"
    accuracy = score(found, "probes", "accuracy")
    assert (accuracy.value, accuracy.failed, accuracy.baselines["blind"]) == (1, 0, 0)
    assert found.model["name"] == "pictor"
    assert found.model["endpoint"] == server.url
    assert found.model["answered by"] == again.model["answered by"] == "pictor-2026 fp_1 (36)"
    assert found.results[0].protocol != run_protocol(server.url, tmp_path / "other", temperature=0.5)


def run_protocol(url: str, folder: Path, **entries: Any) -> str:
    with served(right) as server:
        return run(endpoint(server.url, **entries), tasks(), folder).results[0].protocol


def test_the_protocol_is_the_same_wherever_the_endpoint_is(tmp_path: Path) -> None:
    first = run_protocol("", tmp_path / "a")
    assert first == run_protocol("", tmp_path / "b", concurrency=1)
    assert first != run_protocol("", tmp_path / "c", pictures=Encoding("jpeg"))


@pytest.mark.parametrize("stop", ["budget", "key"])
def test_a_run_that_was_stopped_goes_on_and_nothing_is_paid_twice(tmp_path: Path, stop: str) -> None:
    prices = {"price_in": 1000.0, "price_out": 1000.0}

    def failing(body: dict[str, Any], number: int) -> Answer:
        if stop == "key" and number >= 20:
            return Answer({"error": {"message": "expired"}}, 401)
        return right(body, number)

    with served(right) as server:
        expected = run(endpoint(server.url), tasks(), tmp_path / "whole")
    with served(failing) as server:
        budget = 2.5 if stop == "budget" else None
        with pytest.raises(RemoteError, match="the budget of 2.5 is spent" if budget else "refuses requests without"):
            run(endpoint(server.url, budget=budget, **prices), tasks(), tmp_path / "parts")
        responses = tmp_path / "parts/cache/probes.jsonl"
        lines = [json.loads(line) for line in responses.read_text().splitlines()[1:]]
        answered = len(lines)
        assert 15 <= answered <= 24
        assert all(
            line["usage"] == {"model": "pictor-2026", "fingerprint": "fp_1", "in": 100, "out": 2} for line in lines
        )
        if budget:
            assert len(server.requests) == answered, "no request is lost"
            with pytest.raises(RemoteError, match=r"the budget of 2\.5 is spent"):
                run(endpoint(server.url, budget=budget, **prices), tasks(), tmp_path / "parts")
            assert len(server.requests) == answered, "what was spent before counts"
    # The address is part of who answered, so the same one has to come back.
    port = int(server.url.split(":")[2].split("/")[0])
    with served(right, port) as later:
        found = run(endpoint(later.url, budget=100.0, **prices), tasks(), tmp_path / "parts")
        assert len(later.requests) == 36 - answered
    assert unseconded(found) == unseconded(expected)


def test_refused_items_are_failed_and_never_guessed(tmp_path: Path) -> None:
    def picky(body: dict[str, Any], number: int) -> Answer:
        seen = number_seen(body)
        if seen == 3:
            return Answer({"error": {"message": "unsafe picture"}}, 400)
        return Answer({}, 500) if seen == 5 else right(body, number)

    with served(picky) as server:
        found = run(endpoint(server.url), tasks(), tmp_path, baselines=("constant",))
    accuracy = score(found, "probes", "accuracy")
    assert accuracy.failed == 2
    assert accuracy.value == pytest.approx(10 / 12)
    lines = [json.loads(line) for line in (tmp_path / "cache/probes.jsonl").read_text().splitlines()[1:]]
    reasons = {line["key"]: line["failed"] for line in lines if "failed" in line}
    assert set(reasons) == {"s3/colour/0", "s5/colour/0"}
    assert "unsafe picture" in reasons["s3/colour/0"]
    assert "no answer after 2 tries; the last: status 500" in reasons["s5/colour/0"]


def test_an_endpoint_that_refuses_everything_is_not_asked_everything(tmp_path: Path) -> None:
    with served(lambda body, number: Answer({"error": {"message": "max_tokens is unknown"}}, 400)) as server:
        with pytest.raises(RemoteError, match=r"the first 10 requests were all refused; .*max_tokens is unknown"):
            run(endpoint(server.url), tasks(40), tmp_path)
        assert len(server.requests) < 20


def test_scores_by_log_probabilities_stand_beside_those_of_a_scorer(tmp_path: Path) -> None:
    def decide(body: dict[str, Any], number: int) -> Answer:
        text = words_of(body).split('"')[1]
        fits = sees(number_seen(body), text) > 0
        return likely({"Yes": -0.1, "No": -2.4} if fits else {"Yes": -2.4, "No": -0.1})

    pairs: list[Task] = [Pairs(world(6))]
    with served(decide) as server:
        with pytest.raises(CapabilityError, match="needs a model that can embed or score, but Endpoint can only gener"):
            run(endpoint(server.url), pairs, tmp_path)
        assert not server.requests
        found = run(endpoint(server.url, score_by="yes"), pairs, tmp_path)
        asked = len(server.requests)
        run(endpoint(server.url, score_by="yes"), pairs, tmp_path)
        assert len(server.requests) == asked
    assert score(found, "pairs", "accuracy", "number").value == 1
    assert found.model["scored by"] == "yes"
    lines = [json.loads(line) for line in (tmp_path / "cache/pairs.jsonl").read_text().splitlines()[1:]]
    assert {line["usage"]["in"] for line in lines} == {200}, "the tokens of both texts"


def test_an_interruption_keeps_what_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole: Callable[..., Any] = futures.wait
    calls = [0]

    def interrupted(*rest: Any, **more: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return whole(*rest, **more)

    with served(right) as server:
        monkeypatch.setattr("chiasm.weights.endpoint.wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate(endpoint(server.url), tasks(40), tmp_path, progress=False)
        kept = len((tmp_path / "cache/probes.jsonl").read_text().splitlines()) - 1
        assert 2 <= kept < 40
        assert len(server.requests) == kept, "every answer that was asked for is in the journal"
