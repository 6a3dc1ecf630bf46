"""Evaluation in several processes: started by --processes, by torchrun, or by hand with --share."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from types import TracebackType
from typing import Self

from chiasm.errors import RecipeError
from chiasm.evaluation.share import Share


class Workers:
    """This process among others, as a context manager around evaluating its share of the requests.

    ends: whether it waits for the others and computes all metrics. shown: whether it shows its progress.
    """

    ends, shown = True, True

    def __init__(self, share: Share) -> None:
        self.share = share
        self.lost: list[str] = []  # messages about processes that died

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def device(self, name: str) -> str:
        """The device for this process: of several GPUs, one each."""
        import torch

        count = torch.cuda.device_count() if name in ("auto", "cuda") else 0
        return f"cuda:{(self.share.place - 1) % count}" if count > 1 and self.share.of > 1 else name


class _ByHand(Workers):
    """Evaluates its share, and leaves the metrics to a later run."""

    ends = False


class _Started(Workers):
    """The first process, which starts the others. It repeats the requests that a process which died left unanswered."""

    def __init__(self, share: Share, options: argparse.Namespace) -> None:
        super().__init__(share)
        self._options = options
        self._others: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        import torch

        threads = max(1, (os.cpu_count() or 1) // self.share.of)
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(threads)
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        for place in range(2, self.share.of + 1):
            words = [sys.executable, "-m", "chiasm", "eval", *_words(self._options)]
            words += ["--share", f"{place}/{self.share.of}", "--quiet"]
            self._others[place] = subprocess.Popen(words, env=environment)  # noqa: S603  # our own command line
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for place, process in self._others.items():
            if kind is not None:
                process.terminate()
            if status := process.wait():
                self.lost.append(
                    f"process {place} of {self.share.of} ended with status {status}; what it has not answered is "
                    "asked here"
                )


class _Torchrun(Workers):
    """One of the processes of `torchrun -m chiasm eval ...`; the first waits for all and computes the metrics."""

    def __init__(self, share: Share) -> None:
        super().__init__(share)
        self.ends = self.shown = share.place == 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from datetime import timedelta

        from torch import distributed

        if kind is None:
            distributed.init_process_group("gloo", timeout=timedelta(days=30))  # shares are never of one length
            distributed.barrier()
            distributed.destroy_process_group()


def workers_of(options: argparse.Namespace) -> Workers:
    """The workers of the command line, or of torchrun's environment. Raises RecipeError for a count below 1."""
    if options.processes < 1:
        raise RecipeError(f"--processes must be at least 1, not {options.processes}")
    if options.share and options.processes > 1:
        raise RecipeError("--share asks one share in one process; leave out --processes")
    if options.share:
        return _ByHand(Share.parse(options.share))
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return _Torchrun(Share(int(os.environ["RANK"]) + 1, int(os.environ["WORLD_SIZE"])))
    if options.processes > 1:
        return _Started(Share(1, options.processes), options)
    return Workers(Share())


def _words(options: argparse.Namespace) -> list[str]:
    """The command line again, for another process."""
    words = [str(options.model), *options.overrides, "--device", options.device]
    words += ["--precision", options.precision]
    words += ["--batch-tokens", str(options.batch_tokens), "--baselines", *options.baselines]
    words += [word for package in options.allow for word in ("--allow", package)]
    for name in ("tasks", "out", "score_by"):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    words += [
        f"--{name.replace('_', '-')}" for name in ("keep_failed", "leave_out_impossible") if getattr(options, name)
    ]
    return words
