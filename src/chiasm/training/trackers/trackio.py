"""Trackio, which keeps runs on this machine: trackio show --project chiasm"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import yaml

from chiasm.training.tracker import RunInfo, Tracker, TrackerConfig


@dataclass(frozen=True)
class Config(TrackerConfig):
    """Trackio. project: where the run is shown. space: of the Hub, such as "me/runs", to which it is sent too."""

    package: ClassVar[str] = "trackio"
    extra: ClassVar[str] = "trackio"

    project: str = "chiasm"
    space: str | None = None

    def start(self, run: RunInfo) -> Tracker:
        trackio = self.module("trackio")
        trackio.init(
            project=self.project,
            name=run.name,
            space_id=self.space,
            config=yaml.safe_load(run.recipe) or {},
            resume="allow" if run.logged else "never",
            embed=False,
        )
        return _Trackio(trackio, run.logged)


class _Trackio(Tracker):
    """logged: steps up to here were kept by an earlier sitting; done again, they have the same figures."""

    def __init__(self, trackio: ModuleType, logged: int) -> None:
        self.trackio, self.logged = trackio, logged

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        if step > self.logged:
            self.trackio.log(dict(figures), step=step)

    def close(self) -> None:
        self.trackio.finish()
