"""TensorBoard's event files, in the folder `tensorboard` of the run: tensorboard --logdir runs"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from chiasm.training.tracker import RunInfo, Tracker, TrackerConfig


@dataclass(frozen=True)
class Config(TrackerConfig):
    """TensorBoard, which has no entries."""

    package: ClassVar[str] = "tensorboard"
    extra: ClassVar[str] = "track"

    def start(self, run: RunInfo) -> Tracker:
        writers = self.module("torch.utils.tensorboard")
        # What an earlier sitting wrote of steps that are done again is hidden: that is what purge_step asks for.
        writer = writers.SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.step + 1)
        writer.add_text("recipe", f"```yaml\n{run.recipe}\n```", run.step + 1)
        return _TensorBoard(writer)


class _TensorBoard(Tracker):
    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()
