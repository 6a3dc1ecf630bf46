"""Throughput of a run: samples a second, time left, memory, and the share of the device's peak."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from chiasm.training.peak import Work

_COUNTED = 1  # the step of a sitting whose work is counted: the second, when all is warm
_STATUS = Path("/proc/self/statm")


class Pace:
    """Measures one sitting of a run. counts: whether its matrix work can be counted; not where it is compiled.

    Figures are means over the steps since they were last asked for, as a single step's time says little.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, *, counts: bool) -> None:
        self.device, self.counts, self.work = device, counts, Work(device, dtype)
        self.steps = 0
        self._samples, self._seconds, self._of, self._began = 0, 0.0, 0, 0.0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """A context around the forward and backward pass of every step; it counts operations in one of them."""
        if self.counts and self.steps == _COUNTED:
            with self.work.counted():
                yield
        else:
            yield

    def stepped(self, samples: int, seconds: float) -> None:
        """Records a step: its samples, over all processes, and how long it took, waiting for data included."""
        self.steps += 1
        if self.steps == _COUNTED or (self.counts and self.steps == _COUNTED + 1):
            self._samples, self._seconds, self._of = 0, 0.0, 0  # the first step warms up, in the second is counted
            self._began = time.monotonic()
        self._samples, self._seconds, self._of = self._samples + samples, self._seconds + seconds, self._of + 1

    @property
    def samples_per_second(self) -> float:
        return self._samples / self._seconds

    def seconds_left(self, steps: int) -> float | None:
        """The seconds until so many more steps are done, at the pace of this sitting; None at its start."""
        done = self.steps - (_COUNTED + 1 if self.counts else _COUNTED)
        return (time.monotonic() - self._began) / done * steps if done > 0 else None

    def figures(self, steps_left: int) -> dict[str, float]:
        """The figures of the steps since the last line of metrics.jsonl; starts anew."""
        seconds = self._seconds / self._of
        share = self.work.share(seconds) if self.steps > _COUNTED + 1 else None
        left = self.seconds_left(steps_left)
        found = {"samples_per_second": round(self.samples_per_second, 1), **memory(self.device)}
        if share is not None:
            found["matrix_share"] = round(share, 4)
        if left is not None:
            found["seconds_left"] = round(left, 1)
        return found

    def restart(self) -> None:
        """Starts anew: the next figures are of the steps from here on."""
        self._samples, self._seconds, self._of = 0, 0.0, 0


def memory(device: torch.device) -> dict[str, float]:
    """Bytes taken now and at most: of tensors on a GPU, else of the process."""
    if device.type == "cuda":
        return {
            "memory_bytes": torch.cuda.memory_allocated(device),
            "peak_memory_bytes": torch.cuda.max_memory_allocated(device),
        }
    if sys.platform == "win32":  # neither of the two ways to ask is there
        return {}
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if not _STATUS.exists():
        return {"peak_memory_bytes": peak}
    now = int(_STATUS.read_text().split()[1]) * resource.getpagesize()
    return {"memory_bytes": now, "peak_memory_bytes": max(peak, now)}  # the peak is noted a little late
