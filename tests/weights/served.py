"""An OpenAI-compatible endpoint on this machine, whose every answer a test decides."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import PIL.Image

KEY = "sk-very-secret-7"


@dataclass
class Answer:
    """What the server does with a request. cut: it hangs up in the middle. raw: sent in place of JSON."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    raw: bytes | None = None


def said(text: str | None, tokens: tuple[int, int] = (100, 2), **message: Any) -> Answer:
    return Answer(
        {
            "model": "pictor-2026",
            "system_fingerprint": "fp_1",
            "choices": [{"message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]},
        }
    )


def likely(logs: dict[str, float]) -> Answer:
    answer = said("Yes")
    listed = [{"token": token, "logprob": value} for token, value in logs.items()]
    answer.body["choices"][0]["logprobs"] = {"content": [{"token": "Yes", "top_logprobs": listed}]}
    return answer


@dataclass
class Served:
    """url: what to ask. requests: bodies received. headers: of each. at_once: the most requests at the same time."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    at_once: int = 0


@contextmanager
def served(decide: Callable[[dict[str, Any], int], Answer], port: int = 0) -> Iterator[Served]:
    """decide: (the request, how many came before it) -> the answer; called by many threads. port: 0 for a free one."""
    lock, now = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(state.requests)
                state.requests.append(body)
                state.headers.append({name.lower(): value for name, value in self.headers.items()})
                now[0] += 1
                state.at_once = max(state.at_once, now[0])
            try:
                if self.path != "/v1/chat/completions":
                    answer = Answer({"error": {"message": f"no {self.path}"}}, 404)
                else:
                    answer = decide(body, number)
            finally:
                with lock:
                    now[0] -= 1
            content = answer.raw if answer.raw is not None else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content) + 100 * answer.cut))
            self.end_headers()
            self.wfile.write(content)
            if answer.cut:
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()

        def log_message(self, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up are part of the tests
    state = Served(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def images_of(body: dict[str, Any]) -> list[PIL.Image.Image]:
    """The pictures in a request, decoded on the server's side."""
    found: list[PIL.Image.Image] = []
    for message in body["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else ():
            if part["type"] == "image_url":
                _, _, data = part["image_url"]["url"].partition(";base64,")
                found.append(PIL.Image.open(io.BytesIO(base64.b64decode(data))))
    return found


def words_of(body: dict[str, Any]) -> str:
    """All texts of a request."""
    contents = [message["content"] for message in body["messages"]]
    return " ".join(
        one if isinstance(one, str) else " ".join(part["text"] for part in one if part["type"] == "text")
        for one in contents
    )
