"""Starts `chiasm train` again and again, and kills it, until it ends on its own; prints how often it was killed.

Usage: killed.py SEED KILLS OUT WORD...: the words of the command line. The command runs in forks of this process, which
has imported all it needs, so that a start takes a moment. A fork kills itself at its n-th change of a file under OUT
(so in the middle of a save, between two renames, ...), or this process kills it some time after it has begun."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import chiasm.experiment.run
from chiasm.cli import main

_CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


def child(words: list[str], out: Path, changes: int) -> None:
    """Runs the command; dies by SIGKILL at the given number of changes, 0 for never."""
    left = changes

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event not in _CHANGES or not isinstance(arguments[0], (str, Path)):
            return
        if str(out) in str(arguments[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os._exit(main(words))


def run(seed: int, kills: int, out: Path, words: list[str]) -> int:
    """Returns how many forks were killed."""
    draw = random.Random(seed)
    killed = 0
    while True:
        by_itself = draw.random() < 0.7
        changes = draw.randrange(1, 120) if by_itself and killed < kills else 0
        wait = draw.uniform(0, 1)
        resume = ["--resume"] if (out / "recipe.yaml").exists() else []
        process = os.fork()
        if process == 0:
            child([*words, "--out", str(out), *resume], out, changes)
        if not by_itself and killed < kills:
            time.sleep(wait)
            os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        if not os.WIFSIGNALED(status):
            code = os.waitstatus_to_exitcode(status)
            if code:
                sys.exit(f"the run failed with status {code} after {killed} kills")
            return killed
        killed += 1


if __name__ == "__main__":
    assert chiasm.experiment.run
    print(run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]))
