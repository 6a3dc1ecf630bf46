"""All that the tests do with two processes, or with three, in one launch; `torchrun` starts this file.

Usage: together.py two|three FOLDER. Each scene has a folder of its own below it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from chiasm.training.distributed import Ranks, joined
from chiasm.training.settings import Training
from tests.training import mixed_ranks, ranks, stage1_ranks


def two(folder: Path, here: Ranks) -> None:
    _write(folder / f"ranks/two-{here.rank}.json", ranks.two(folder / "ranks", here))
    stage1_ranks.main(folder / "stage1", here)
    mixed_ranks.main(folder / "mixed", here)


def three(folder: Path, here: Ranks) -> None:
    _write(folder / f"ranks/three-{here.rank}.json", ranks.three(folder / "ranks", here))


def gloo_threads() -> list[str]:
    """Threads of this process that belong to process groups."""
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return [name for name in names if "gloo" in name]


def _write(file: Path, told: object) -> None:
    file.write_text(json.dumps(told))


if __name__ == "__main__":
    name, place = sys.argv[1], Path(sys.argv[2])
    with joined(lambda: Training(1, device="cpu", timeout=60)) as own:
        {"two": two, "three": three}[name](place, own)
        before = gloo_threads()
    _write(place / f"threads-{name}-{own.rank}.json", [before, gloo_threads()])
