"""One launch of two processes and one of three, for all modules that judge what several processes leave.

Their tests stand in one group, so that one worker has them all: `pytest.mark.xdist_group("ranks")`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chiasm.training.distributed import Ranks
from chiasm.training.settings import PartSettings
from tests.training import ranks

ROOT = Path(__file__).parents[2]
FROZEN = {"text.embed": PartSettings(frozen=True)}


def torchrun(processes: int, *words: str, **rest: Any) -> subprocess.Popen[str]:
    """Starts processes as a user would; a free port is found by torchrun. What kills one of them leaves its stack."""
    paths = os.pathsep.join(map(str, (ROOT / "src", ROOT, os.environ.get("PYTHONPATH", ""))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "PYTHONFAULTHANDLER": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *words]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **rest)


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process, then two, then three have left, a folder for each module."""
    place = tmp_path_factory.mktemp("together")
    for name in ("ranks", "stage1", "mixed"):
        (place / name).mkdir()
    folder = place / "ranks"
    alone = ranks.loop(folder / "alone", Ranks(), parts=FROZEN, checkpoint_every=10, clip_norm=0.5)
    alone.run()
    ranks.write(alone, folder / "alone.safetensors")
    shutil.copy(folder / "alone" / "metrics.jsonl", folder / "alone.jsonl")
    for name, count in (("two", 2), ("three", 3)):
        process = torchrun(count, str(ROOT / "tests/training/together.py"), name, str(place))
        _, error = process.communicate(timeout=900)
        assert process.returncode == 0, error
    return place
