"""The HTTP client of an endpoint, which repeats a request where that may help."""

from __future__ import annotations

import json
import os
import random
import threading
import time
import weakref
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from chiasm.errors import DataError, MissingExtra, RecipeError, RemoteError
from chiasm.weights.endpoint.pace import Purse, RateLimiter
from chiasm.weights.endpoint.settings import EndpointSettings
from chiasm.weights.endpoint.wire import Reply, complaint, read

_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529)
_FATAL_CODES = ("insufficient_quota", "invalid_api_key", "model_not_found")
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds before the first repetition, doubled for each one after it
_PATIENCE = 600.0  # the longest pause that an endpoint may ask for
_LARGEST = 16 << 20  # bytes of an answer
_IN_A_ROW = 5  # requests given up, one after the other, after which nothing more is asked


class Client:
    """Sends requests to an endpoint, from any number of threads.

    Raises MissingExtra without httpx, RecipeError where the environment variable with the key is not set.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        try:
            import httpx
        except ImportError as error:
            raise MissingExtra("httpx", "remote", "a model behind an endpoint") from error
        self.settings, self.pace, self.purse = settings, RateLimiter(settings), Purse(settings)
        self.stopped = threading.Event()
        self._key = os.environ.get(settings.key, "").strip() if settings.key else ""
        if settings.key and not self._key:
            raise RecipeError(f"the environment variable {settings.key} is not set; it must hold the endpoint's key")
        if not self._key.isascii() or any(character.isspace() for character in self._key):
            raise RecipeError(f"the environment variable {settings.key} holds no key: it has blanks or accents in it")
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(settings.timeout, connect=min(settings.timeout, 20.0)),
            limits=httpx.Limits(max_connections=settings.concurrency),
        )
        weakref.finalize(self, self._http.close)  # connections end with the client
        self._lock = threading.Lock()
        self._answered, self._given_up = False, 0

    def chat(self, body: Mapping[str, Any], characters: int, images: int, most_out: int) -> Reply:
        """The endpoint's reply to one request, with so many characters and pictures in it.

        Raises DataError where the request alone is refused or has no answer after all repetitions; RemoteError where
        nothing more can be asked: a wrong key, an unknown model, a spent budget, or several given up in a row.
        """
        with self.purse.laid_aside(characters, images, most_out, self.stopped) as expected_in:
            reason = ""
            for attempt in range(self.settings.retries + 1):
                if attempt:
                    longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (attempt - 1))
                    self.pace.wait(longest * random.uniform(0.5, 1.0), self.stopped)  # noqa: S311  # no secret
                self.pace.enter(expected_in + most_out, self.stopped)
                found = self._attempt(body)
                if isinstance(found, Reply):
                    with self._lock:
                        self._answered, self._given_up = True, 0
                    self.pace.took(expected_in + most_out, found.usage.get("in", 0) + found.usage.get("out", 0))
                    self.purse.pay(found.usage)
                    return found
                reason = found
        with self._lock:
            self._given_up += 1
            hopeless = self._given_up >= _IN_A_ROW
        failed = f"no answer after {self.settings.retries + 1} tries; the last: {reason}"
        if hopeless:
            raise RemoteError(
                f"{self.settings.url} gave no answer to {_IN_A_ROW} requests in a row ({failed}); run the same command "
                "again to go on where this stopped"
            )
        raise DataError(failed)

    def _attempt(self, body: Mapping[str, Any]) -> Reply | str:
        """The reply to one attempt, or why there is none yet."""
        import httpx

        try:
            status, headers, content = self._send(body)
        except httpx.TimeoutException:
            return f"nothing within {self.settings.timeout:g} s"
        except httpx.TransportError as error:
            return self._safe(f"the connection failed ({error or type(error).__name__})")
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if status == 200:
            try:
                return read(answer)
            except ValueError as error:
                return str(error) if answer is not None else "the answer is not JSON"
        self._judge(status, answer)
        if (pause := _retry_after(headers)) > _PATIENCE:
            raise RemoteError(
                f"{self.settings.url} asks to wait {pause / 60:.0f} minutes (status {status}); go on then"
            )
        if pause > 0:
            self.pace.hold(pause)
        return self._safe(f"status {status} {complaint(answer)[0]}".strip())

    def _send(self, body: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body; the timeout holds for the whole, however slowly it drips."""
        import httpx

        until, parts, size = time.monotonic() + self.settings.timeout, [], 0
        url = self.settings.url.rstrip("/") + "/chat/completions"
        with self._http.stream("POST", url, json=body) as response:
            for part in response.iter_bytes():
                parts.append(part)
                size += len(part)
                if size > _LARGEST:
                    raise DataError(f"the endpoint's answer is larger than {_LARGEST >> 20} MiB")
                if time.monotonic() > until:
                    raise httpx.ReadTimeout("the answer took too long")
            return response.status_code, dict(response.headers), b"".join(parts)

    def _judge(self, status: int, answer: Any) -> None:
        """Raises for a status that no repetition mends: RemoteError if it concerns all requests, else DataError."""
        message, code = complaint(answer)
        detail = self._safe(f"(status {status}{f': {message}' if message else ''})")
        url, settings = self.settings.url, self.settings
        if status == 401 or (status == 403 and not self._answered):
            refused = (
                f"the key in the environment variable {settings.key}" if settings.key else "requests without a key"
            )
            raise RemoteError(f"{url} refuses {refused} {detail}")
        if status == 402 or code in _FATAL_CODES or (status == 404 and not self._answered):
            raise RemoteError(f"{url} cannot be asked for the model '{settings.model}' {detail}")
        if 300 <= status < 400:
            raise RemoteError(f"{url} has moved {detail}; give its new address")
        if status not in _AGAIN:
            raise DataError(f"the endpoint refuses the request {detail}")

    def _safe(self, words: str) -> str:
        """The words of a server without the key, should it repeat it."""
        return words.replace(self._key, "***") if self._key else words


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the endpoint asks to wait, as a number or as a date; 0 where it says nothing that can be read."""
    stated = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(stated))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(stated)
    except ValueError:
        return 0.0
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
