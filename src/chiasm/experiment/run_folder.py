"""The folder of a run: what belongs to it, who writes into it, and what becomes of an older run there."""

from __future__ import annotations

import fcntl
import os
import shutil
import weakref
from pathlib import Path

from chiasm.errors import TrainingError
from chiasm.experiment.recipe import learned_by
from chiasm.models import folder as model_folder
from chiasm.training.monitor import METRICS

RECIPE, CHECKPOINT, CHECKPOINTS, EVALUATION, BASE = "recipe.yaml", "checkpoint", "checkpoints", "evaluation", "base"
STAGES, REPORT, LOCK = "stages", "report.html", ".lock"

# All that runs and what is called on them write. Nothing else in a folder is ever removed.
_OWN = (METRICS, f"{METRICS}.new", f"{RECIPE}.new", CHECKPOINT, CHECKPOINTS, EVALUATION, BASE, STAGES, REPORT)
_TRACKERS = ("tensorboard", "wandb", "wandb.id")


class RunFolder:
    """One run's folder. `claim` has this process be its only writer until `release`, or until the process ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._release: weakref.finalize | None = None  # type: ignore[type-arg]  # generic only for type checkers

    @property
    def holds_a_run(self) -> bool:
        """Whether a run has begun here, finished or not."""
        return any((self.path / name).exists() for name in (METRICS, CHECKPOINT, STAGES, CHECKPOINTS))

    def check(self, text: str, *, resume: bool, overwrite: bool) -> None:
        """Raises TrainingError where the folder holds a run that neither `resume` nor `overwrite` allows for."""
        file = self.path / RECIPE
        if resume:
            if not file.exists():
                raise TrainingError(f"{self.path} holds no run to go on with; leave --resume out to begin one")
            for saved in (self.path / CHECKPOINT, *sorted((self.path / CHECKPOINTS).glob("step-*"))):
                model_folder.require_current(saved)
            if learned_by(old := file.read_text()) != learned_by(text):
                raise TrainingError(
                    f"{self.path} holds a run of another recipe ({_changed_lines(old, text)}); go on with the recipe "
                    "that it began with, or give --out another folder"
                )
        elif overwrite:
            if self.path.is_dir() and {entry.name for entry in self.path.iterdir()} - {LOCK} and not file.exists():
                raise TrainingError(f"{self.path} holds other things than a run; they are not removed")
        elif self.holds_a_run:
            raise TrainingError(
                f"{self.path} already holds a run; --resume goes on with it, --overwrite starts anew, "
                "--out FOLDER keeps both"
            )

    def claim(self, text: str, *, overwrite: bool) -> None:
        """Makes the folder this run's: locks it, removes what an older run left where that is wanted, keeps the recipe.

        Raises TrainingError where another process trains in the folder, or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock()
            for name in (*_OWN, *_TRACKERS) if overwrite else ():
                _remove(self.path / name)
            aside = self.path / f"{RECIPE}.new"
            aside.write_text(text)
            aside.replace(self.path / RECIPE)
        except OSError as error:
            raise TrainingError(f"cannot write the run folder {self.path}: {error.strerror or error}") from error

    def release(self) -> None:
        """Lets other processes train in the folder again."""
        if self._release is not None:
            self._release()

    def _lock(self) -> None:
        """Takes the lock, which the system drops with the process, however that ends."""
        handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise TrainingError(
                f"another process trains in {self.path}; wait for it or stop it, or give another --out"
            ) from None
        self._release = weakref.finalize(self, os.close, handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _changed_lines(old: str, new: str) -> str:
    """Up to three lines of the new recipe that differ from the old one, for an error."""
    before = set(old.splitlines())
    changed = [line.strip() for line in new.splitlines() if line not in before]
    return "; ".join(changed[:3]) or "entries were removed"
