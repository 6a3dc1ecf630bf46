"""What all tests need: peers that can be imported before anything looks for them, no verdicts by the clock, and no
proof that is skipped in CI."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from tests import peers  # noqa: F401  # before any class of transformers is touched
from tests.meta import skip_draws_on_meta
from tests.skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401  # hooks

pytest_plugins = ["pytester"]

# A busy machine draws slowly; that says nothing of the code.
settings.register_profile("chiasm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("chiasm")

skip_draws_on_meta()


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Gives the folder of a name that a function has filled, which one worker calls, once. It must not be changed."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def folder_of(name: str, fill: Callable[[Path], object]) -> Path:
        folder, unfinished = root / "once" / name, root / "once" / f"{name}.new"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                shutil.rmtree(unfinished, ignore_errors=True)  # of a worker that failed
                fill(unfinished)
                unfinished.rename(folder)
        return folder

    return folder_of


@pytest.fixture(scope="session")
def trained_clip(once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A whole run of clip/scenes, cut short: trained for two steps, evaluated, reported. Copy it to change it."""
    from chiasm.cli import main

    short = ["training.steps=2", "data.batch_size=8", "training.evaluate_every=0", "training.optimiser=adamw"]
    short += [f"evaluation.{at}.limit=3" for at in range(3)]

    def train(folder: Path) -> None:
        assert main(["train", "clip/scenes", *short, "--out", str(folder)]) == 0

    return once("trained_clip", train)
