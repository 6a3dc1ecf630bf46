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
    """project: where the run is shown. space: of the Hub, such as "me/runs", to which it is sent too."""

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
            resume="allow" if run.told else "never",
            embed=False,
        )
        return _Trackio(trackio, run.told)


class _Trackio(Tracker):
    """told: steps up to here were kept by an earlier sitting; done again, they have the same figures."""

    def __init__(self, trackio: ModuleType, told: int) -> None:
        self.trackio, self.told = trackio, told

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        if step > self.told:
            self.trackio.log(dict(figures), step=step)

    def close(self) -> None:
        self.trackio.finish()
