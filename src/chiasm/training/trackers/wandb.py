"""Weights & Biases; without a network with WANDB_MODE=offline, and `wandb sync` afterwards."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from chiasm.training.tracker import RunInfo, Tracker, TrackerConfig


@dataclass(frozen=True)
class Config(TrackerConfig):
    """Weights & Biases. project, entity: where the run is shown. mode: None is the variable WANDB_MODE's."""

    package: ClassVar[str] = "wandb"
    extra: ClassVar[str] = "wandb"

    project: str = "chiasm"
    entity: str | None = None
    mode: str | None = None

    def start(self, run: RunInfo) -> Tracker:
        session = self.module("wandb").init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            name=run.name,
            id=_own_id(run.folder / "wandb.id"),
            resume="allow",
            dir=str(run.folder),
            config=yaml.safe_load(run.recipe) or {},
        )
        return _Wandb(session, run.logged)


class _Wandb(Tracker):
    """logged: steps up to here were sent by an earlier sitting. What was sent cannot be taken back, and the steps that
    are done again have the same figures, so they are left out."""

    def __init__(self, session: Any, logged: int) -> None:
        self.session, self.logged = session, logged

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        if step > self.logged:
            self.session.log(dict(figures), step=step)

    def close(self) -> None:
        self.session.finish()


def _own_id(file: Path) -> str:
    """The run's id at Weights & Biases, which ties its sittings together, kept in its folder."""
    if not file.exists():
        file.write_text(uuid.uuid4().hex[:12] + "\n")
    return file.read_text().strip()
