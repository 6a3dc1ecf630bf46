"""Signals that ask a run to stop: Ctrl-C, SIGTERM, and SIGUSR1, which batch systems send before time is up."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def stopping(stop: Callable[[], None], *, grace: float = 0.0) -> Iterator[None]:
    """The first signal ends the run after the step that is under way; a further one ends it at once.

    grace: seconds in which a further one counts as the same; torchrun hands on a Ctrl-C that its processes got too.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return
    first: list[float] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if not first:
            first.append(time.monotonic())
            stop()
        elif time.monotonic() - first[0] >= grace:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            signal.raise_signal(number)

    old = {number: signal.signal(number, on_signal) for number in _NUMBERS}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
