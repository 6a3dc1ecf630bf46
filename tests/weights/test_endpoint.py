"""Remote models: what is sent, what comes back, and everything that goes wrong on the way."""

from __future__ import annotations

import math
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest

from chiasm.data.chat import ChatTemplate
from chiasm.data.image import Image
from chiasm.data.sample import Sample, Text
from chiasm.errors import DataError, MissingExtra, RecipeError, RemoteError
from chiasm.weights.endpoint import Encoding, Endpoint, EndpointSettings, ScoringEndpoint, connect
from chiasm.weights.endpoint import client as client_module
from chiasm.weights.endpoint.wire import messages
from tests.weights.served import KEY, Answer, images_of, likely, said, served, words_of


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_FIRST_WAIT", 0.01)
    monkeypatch.setenv("PICTOR_KEY", KEY)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def endpoint(url: str, **entries: Any) -> Endpoint:
    return connect(EndpointSettings(url, "pictor", **{"key": "PICTOR_KEY", "timeout": 5.0, "retries": 2, **entries}))


def sample(words: str = "What is it?", *pictures: Image) -> Sample:
    return Sample("s", (*pictures, Text(words, role="user")))


def reply(model: Endpoint, one: Sample | None = None) -> str:
    return model.reply(one or sample(), 8).text


def gradient(width: int, height: int) -> Image:
    across = np.linspace(0, 255, width)[None, :, None]
    down = np.linspace(0, 255, height)[:, None, None]
    return Image(np.concatenate(np.broadcast_arrays(across, down, 255 - across), 2).astype(np.uint8))


def test_pictures_arrive_as_they_are_described() -> None:
    with served(lambda body, number: said("a gradient")) as server:
        large, small = gradient(400, 200), gradient(30, 20)
        parts = (Text("Be brief.", "system"), large, Text("And", "user"), small, Text("what?", "user"))
        jpeg = endpoint(server.url, pictures=Encoding(longest=100))
        assert reply(jpeg, Sample("s", parts)) == "a gradient"
        png = endpoint(server.url, pictures=Encoding("png", detail="low"))
        reply(png, sample("?", large))
    body, exact = server.requests
    assert {name: body[name] for name in ("model", "max_tokens", "temperature")} == {
        "model": "pictor",
        "max_tokens": 8,
        "temperature": 0.0,
    }
    assert "seed" not in body
    system, user = body["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    assert [part["type"] for part in user["content"]] == ["image_url", "text", "image_url", "text"]
    first, second = images_of(body)
    assert (first.format, first.size, second.size) == ("JPEG", (100, 50), (30, 20))
    levels = np.asarray(second.convert("RGB")).astype(int)
    assert np.abs(levels - np.asarray(small.decode()).astype(int)).mean() < 8
    assert "detail" not in user["content"][0]["image_url"]
    (lossless,) = images_of(exact)
    assert np.array_equal(np.asarray(lossless), np.asarray(large.decode()))
    assert exact["messages"][0]["content"][0]["image_url"]["detail"] == "low"
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_a_picture_stands_in_the_turn_that_it_says() -> None:
    shown = gradient(4, 4).placed("user")
    chat = Sample("a", (Text("What is it?", "user"), shown, Text("A dog.", "assistant"), Text("Why?", "user")))
    first, second, third = messages(chat, Encoding())
    assert [part["type"] for part in first["content"]] == ["text", "image_url"]
    assert (second, third) == ({"role": "assistant", "content": "A dog."}, {"role": "user", "content": "Why?"})


@pytest.mark.parametrize(
    ("roles", "told"),
    [(("human", "assistant"), "of the role 'human'; roles are"), (("user", ""), "a text has no role")],
)
def test_a_chat_with_roles_that_are_none_is_refused(roles: tuple[str, str], told: str) -> None:
    chat = Sample("a", tuple(Text("Hello.", role) for role in roles))
    with pytest.raises(DataError, match=f"sample 'a' .*{told}"):
        messages(chat, Encoding())
    with pytest.raises(DataError, match=f"sample 'a' .*{told}"):
        ChatTemplate("{% for message in messages %}{{ message['content'] }}{% endfor %}").render(chat)


def test_texts_alone_are_plain_strings_and_answers_have_their_role() -> None:
    with served(lambda body, number: said("four")) as server:
        asked = [sample("2 + 2?"), Sample("t", (Text("2 + 2 ="),))]
        found = endpoint(server.url).generate(asked, max_tokens=3)
    assert [one.parts[-1] for one in found] == [Text("four", "assistant"), Text("four")]
    assert sorted(body["messages"][0]["content"] for body in server.requests) == ["2 + 2 =", "2 + 2?"]


def test_pictures_in_an_assistants_turn_are_refused_here() -> None:
    shown = Sample("s", (Text("Draw.", "user"), gradient(4, 4), Text("Done.", "assistant"), Text("Good?", "user")))
    with served(lambda body, number: said("")) as server, pytest.raises(DataError, match="only users may show them"):
        reply(endpoint(server.url), shown)
    assert not server.requests


@pytest.mark.parametrize("date", [False, True])
def test_too_many_requests_wait_as_long_as_they_are_told(date: bool) -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True) if date else "0.4"

    def decide(body: dict[str, Any], number: int) -> Answer:
        if number == 0:
            return Answer({"error": {"message": "slow down"}}, 429, {"Retry-After": when})
        return said("fine")

    with served(decide) as server:
        started = time.monotonic()
        assert reply(endpoint(server.url)) == "fine"
        assert time.monotonic() - started >= (1.0 if date else 0.4)  # a date has whole seconds
    assert len(server.requests) == 2


def test_one_that_is_told_to_wait_holds_the_others_back() -> None:
    times: list[float] = []

    def decide(body: dict[str, Any], number: int) -> Answer:
        times.append(time.monotonic())
        return Answer({}, 429, {"Retry-After": "0.5"}) if number == 0 else said("fine")

    with served(decide) as server:
        model = endpoint(server.url, concurrency=1)
        list(model.concurrently(lambda at: reply(model, sample(str(at))), [1, 2, 3]))
    assert len(times) == 4
    assert times[1] - times[0] >= 0.5


@pytest.mark.parametrize(
    "trouble",
    [
        Answer({"error": "overloaded"}, 503),
        Answer(said("x").body, cut=True),
        Answer(raw=b'{"choices": [{"mess'),
        Answer({"choices": []}),
        Answer({"choices": [{"message": {"content": None}}]}),
        Answer([]),
    ],
    ids=["busy", "cut", "half JSON", "no choices", "no text", "a list"],
)
def test_what_may_pass_is_asked_again(trouble: Answer) -> None:
    with served(lambda body, number: trouble if number < 2 else said("at last")) as server:
        assert reply(endpoint(server.url)) == "at last"
        assert len(server.requests) == 3
    with served(lambda body, number: trouble) as server:
        with pytest.raises(DataError, match="no answer after 3 tries; the last: "):
            reply(endpoint(server.url))
        assert len(server.requests) == 3


def test_a_slow_answer_is_given_up_in_time() -> None:
    def decide(body: dict[str, Any], number: int) -> Answer:
        time.sleep(1.5 * (number == 0))
        return said("fine")

    with served(decide) as server:
        assert reply(endpoint(server.url, timeout=0.3)) == "fine"
        assert len(server.requests) == 2


def test_an_answer_that_drips_is_given_up_in_time() -> None:
    """Each byte comes within the timeout, the whole does not."""
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
            with suppress(OSError):
                for _ in range(40):
                    connection.sendall(b" ")
                    time.sleep(0.1)

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    with listener, pytest.raises(DataError, match=r"nothing within 0\.5 s"):
        reply(endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", timeout=0.5, retries=0))
    thread.join()


def test_nobody_there_is_told_in_a_sentence() -> None:
    with served(lambda body, number: said("")) as server:
        pass
    model = endpoint(server.url, retries=0)
    for _ in range(4):
        with pytest.raises(DataError, match="the connection failed"):
            reply(model)
    with pytest.raises(RemoteError, match=r"gave no answer to 5 requests in a row .*; run the same command again"):
        reply(model)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer({"error": {"message": f"bad key {KEY}"}}, 401), r"refuses the key in .* PICTOR_KEY \(status 401: bad"),
        (Answer({"error": {"message": "not yours"}}, 403), "refuses the key in the environment variable PICTOR_KEY"),
        (
            Answer({"error": {"message": "no such model"}}, 404),
            "cannot be asked for the model 'pictor' .*no such model",
        ),
        (Answer({"error": {"message": "pay", "code": "insufficient_quota"}}, 429), "cannot be asked for the model"),
        (Answer({}, 307, {"Location": "http://elsewhere"}), "has moved"),
        (Answer({}, 429, {"Retry-After": "86400"}), "asks to wait 1440 minutes"),
    ],
)
def test_what_no_repetition_mends_stops_everything_at_once(answer: Answer, told: str) -> None:
    with served(lambda body, number: answer) as server, pytest.raises(RemoteError, match=told) as caught:
        reply(endpoint(server.url))
    assert len(server.requests) == 1
    assert KEY not in str(caught.value)


def test_a_refused_request_fails_alone() -> None:
    def decide(body: dict[str, Any], number: int) -> Answer:
        if "weapon" in words_of(body):
            return Answer({"error": {"message": "against the rules"}}, 400)
        return said(None, refusal="I will not") if "poem" in words_of(body) else said("fine")

    with served(decide) as server:
        model = endpoint(server.url)
        assert reply(model) == "fine"
        with pytest.raises(DataError, match=r"refuses the request \(status 400: against the rules\)"):
            reply(model, sample("a weapon"))
        with pytest.raises(DataError, match="the endpoint refuses: I will not"):
            reply(model, sample("a poem"))
    assert len(server.requests) == 3


def test_requests_run_at_once_and_results_find_their_place() -> None:
    gate = threading.Barrier(4)

    def decide(body: dict[str, Any], number: int) -> Answer:
        gate.wait(timeout=5)
        return said(words_of(body))

    with served(decide) as server:
        model = endpoint(server.url, concurrency=4)
        asked = [sample(f"number {at}") for at in range(8)]
        assert [one.texts[-1].text for one in model.generate(asked)] == [f"number {at}" for at in range(8)]
    assert server.at_once == 4


def test_requests_keep_the_pace() -> None:
    times: list[float] = []

    def decide(body: dict[str, Any], number: int) -> Answer:
        times.append(time.monotonic())
        return said("x", (50, 50))

    with served(decide) as server:
        model = endpoint(server.url, requests_a_minute=600)
        model.generate([sample()] * 4)
        assert times[-1] - times[0] >= 0.28
        times.clear()
        by_tokens = endpoint(server.url, tokens_a_minute=60_000)
        by_tokens.generate([sample()] * 4, max_tokens=8)
        # Each takes 100 tokens, a tenth of a second; the first ones were expected to take fewer.
        by_tokens.generate([sample()] * 2, max_tokens=8)
        assert times[-1] - times[0] >= 0.4


def test_a_budget_stops_before_it_is_passed() -> None:
    prices: dict[str, Any] = {"price_in": 1000.0, "price_out": 10_000.0}  # 0.1 + 0.02 a request, at most 0.18
    with served(lambda body, number: said("x", (100, 2))) as server:
        model = endpoint(server.url, budget=1.0, concurrency=1, **prices)
        found: list[str] = []
        with pytest.raises(RemoteError, match=r"the budget of 1 is spent: 0\.\d+ so far") as caught:
            found += [text for _, text in model.concurrently(lambda at: reply(model), range(50))]
        assert "raise `budget` and run the same command again" in str(caught.value)
        assert model.cost == "cost 0.8400 of 1"
        assert len(server.requests) == 7
        later = endpoint(server.url, budget=1.0, **prices)
        later.remember([{"in": 100, "out": 2}] * 7)
        with pytest.raises(RemoteError, match="the budget of 1 is spent"):
            reply(later)
        assert len(server.requests) == 7


def test_without_usage_no_budget_is_kept() -> None:
    answer = said("x")
    del answer.body["usage"]
    with served(lambda body, number: answer) as server:
        assert reply(endpoint(server.url)) == "x"
        with pytest.raises(RemoteError, match="does not tell how many tokens"):
            reply(endpoint(server.url, budget=1.0, price_in=1.0))


def test_texts_are_scored_by_the_probability_of_yes() -> None:
    logs = {
        "a dog": {"Yes": math.log(0.5), " yes": math.log(0.1), "No": math.log(0.2), "The": math.log(0.1)},
        "a cat": {"No": math.log(0.9)},
    }

    def decide(body: dict[str, Any], number: int) -> Answer:
        assert (body["logprobs"], body["top_logprobs"], body["max_tokens"]) == (True, 20, 1)
        return likely(next(value for text, value in logs.items() if f'show "{text}"?' in words_of(body)))

    with served(decide) as server:
        model = endpoint(server.url, score_by="yes")
        assert isinstance(model, ScoringEndpoint)
        found = model.score([gradient(8, 8), gradient(9, 9)], ["a dog", "a cat"])
    np.testing.assert_allclose(found, [[0.75, 0], [0.75, 0]], rtol=1e-6)
    with served(lambda body, number: likely({"Maybe": -0.1})) as server, pytest.raises(DataError, match="neither yes"):
        endpoint(server.url, score_by="yes").score([gradient(8, 8)], ["a dog"])  # type: ignore[attr-defined]
    with served(lambda body, number: said("Yes")) as server, pytest.raises(DataError, match="no log-probabilities"):
        endpoint(server.url, score_by="yes").score([gradient(8, 8)], ["a dog"])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"url": "host/v1"}, "url must be that of an endpoint"),
        ({"url": "https://me:word@host/v1"}, "must hold no user, password"),
        ({"key": "sk-abc"}, "not the key itself"),
        ({"key": "NOT_SET_HERE"}, "the environment variable NOT_SET_HERE is not set"),
        ({"budget": 1.0}, "a budget needs price_in and price_out"),
        ({"concurrency": 0}, "concurrency must be above 0"),
        ({"extra": {"max_tokens": 3}}, r"extra\.max_tokens is not for you"),
        ({"pictures": {"quality": 0}}, "quality is 1 to 95"),
    ],
)
def test_mistakes_in_the_settings_are_told(entries: dict[str, Any], told: str) -> None:
    from chiasm.config import parse

    with pytest.raises(RecipeError, match=told) as caught:
        Endpoint(parse(EndpointSettings, {"url": "https://host/v1", "model": "m", **entries}))
    assert "sk-abc" not in str(caught.value)
    assert "word@" not in str(caught.value)


def test_the_protocol_is_what_replies_depend_on() -> None:
    base = EndpointSettings("https://host/v1", "m")
    same = replace(base, url="https://other/v1", concurrency=1, timeout=1.0, price_in=2.0, requests_a_minute=5.0)
    assert same.protocol() == base.protocol()
    others = [
        replace(base, model="n"),
        replace(base, temperature=1.0),
        replace(base, seed=1),
        replace(base, extra={"top_p": 0.5}),
        replace(base, pictures=Encoding(quality=80)),
        replace(base, score_by="yes"),
    ]
    assert all(one.protocol() != base.protocol() for one in others)
    assert Endpoint(same).fingerprint != Endpoint(base).fingerprint


def test_without_httpx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(MissingExtra, match=r"needs the package 'httpx': pip install 'chiasm\[remote\]'"):
        Endpoint(EndpointSettings("https://host/v1", "m"))
