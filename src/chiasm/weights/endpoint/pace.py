"""Rate limit and budget of an endpoint, shared by the threads that send requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from chiasm.errors import RemoteError
from chiasm.models.remote import Usage
from chiasm.weights.endpoint.settings import EndpointSettings

_IMAGE_TOKENS = 1_500  # tokens that an image is taken for until the endpoint has told what it counts


class RateLimiter:
    """Spaces the starts of requests evenly, so that neither limit a minute is passed, and pauses them on demand."""

    def __init__(self, settings: EndpointSettings) -> None:
        self._request = 60 / settings.requests_a_minute if settings.requests_a_minute else 0.0
        self._token = 60 / settings.tokens_a_minute if settings.tokens_a_minute else 0.0
        self._next, self._until = 0.0, 0.0
        self._lock = threading.Lock()

    def enter(self, tokens: int, stopped: threading.Event) -> None:
        """Waits for a request's turn. tokens: how many it is expected to use."""
        with self._lock:
            start = max(time.monotonic(), self._next)
            self._next = start + max(self._request, tokens * self._token)
        self.wait(start - time.monotonic(), stopped)
        while (rest := self._until - time.monotonic()) > 0:
            self.wait(rest, stopped)

    def hold(self, seconds: float) -> None:
        """Pauses all requests for so many seconds."""
        with self._lock:
            self._until = max(self._until, time.monotonic() + seconds)

    def took(self, expected: int, tokens: int) -> None:
        """Corrects the pace by the tokens that a request really used."""
        with self._lock:
            self._next += (tokens - expected) * self._token

    def wait(self, seconds: float, stopped: threading.Event) -> None:
        """Waits so many seconds. Raises RemoteError if everything is stopped meanwhile."""
        if stopped.wait(max(0.0, seconds)):
            raise RemoteError("stopped")


class Purse:
    """The tokens and the money spent. Each request reserves what it may cost before it is sent."""

    def __init__(self, settings: EndpointSettings) -> None:
        self._settings = settings
        self._changed = threading.Condition()
        self._in, self._out, self._laid_aside, self._most_in = 0, 0, 0.0, 0

    @property
    def spent(self) -> float:
        """The cost of all requests so far."""
        return self._price(self._in, self._out)

    @contextmanager
    def laid_aside(self, characters: int, images: int, out: int, stopped: threading.Event) -> Iterator[int]:
        """Reserves what a request may cost while it runs. Yields the tokens that its prompt is expected to take: the
        most that any took so far, else a guess.

        Where the budget is nearly spent, waits for what others turn out to cost. Raises RemoteError if the request
        might pass it even so, or if everything is stopped meanwhile.
        """
        budget = self._settings.budget
        with self._changed:
            while True:
                expected = self._most_in or characters // 3 + images * _IMAGE_TOKENS
                price = self._price(expected, out)
                if budget is not None and self.spent + price > budget:
                    raise RemoteError(
                        f"the budget of {budget:g} is spent: {self.spent:.4f} so far, and the next request may cost "
                        f"{price:.4f}; raise `budget` and run the same command again to go on where this stopped"
                    )
                if budget is None or self.spent + self._laid_aside + price <= budget:
                    break
                if stopped.is_set():
                    raise RemoteError("stopped")
                self._changed.wait(0.1)
            self._laid_aside += price
        try:
            yield expected
        finally:
            with self._changed:
                self._laid_aside -= price
                self._changed.notify_all()

    def pay(self, usage: Usage) -> None:
        """Adds an answer's tokens. Raises RemoteError where a budget is set and the endpoint does not report them."""
        if self._settings.budget is not None and not {"in", "out"} <= usage.keys():
            raise RemoteError(
                "the endpoint does not tell how many tokens it used, so no budget can be kept; leave it out"
            )
        with self._changed:
            self._in, self._out = self._in + usage.get("in", 0), self._out + usage.get("out", 0)
            self._most_in = max(self._most_in, usage.get("in", 0))

    def __str__(self) -> str:
        if not self._settings.price_in + self._settings.price_out:
            return f"{self._in + self._out:,} tokens"
        return f"cost {self.spent:.4f}" + ("" if self._settings.budget is None else f" of {self._settings.budget:g}")

    def _price(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self._settings.price_in + tokens_out * self._settings.price_out) / 1e6
