"""Checks that the disk has room for the checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from chiasm.diagnosis.check import Check
from chiasm.diagnosis.checks.step import optimiser_bytes
from chiasm.diagnosis.finding import Finding
from chiasm.diagnosis.machine import free_disk, gib


class Disk(Check):
    """Adds up what `training.keep` checkpoints and the finished model take, one more being written beside them."""

    def findings(self) -> Iterator[Finding]:
        if self.setting.model is None:
            return
        training = self.setting.recipe.training
        kept = self.setting.trainable if self.setting.recipe.adapters else self.setting.model.parameters()
        weights = 4.0 * sum(parameter.numel() for parameter in kept)  # with adapters, only what is trained
        checkpoint = weights + optimiser_bytes(self.setting) + (weights if training.ema is not None else 0)
        count = training.keep + 1 if training.checkpoint_every else 1  # a signal saves one too
        needed = count * checkpoint + weights
        folder = Path("runs") / self.setting.recipe.name
        free = free_disk(folder)
        title = f"checkpoints take {gib(needed)} in {folder}; {gib(free)} are free"
        figures = {"needed": needed, "free": float(free)}
        if needed <= 0.9 * free:
            yield self.found("note", title, figures=figures)
            return
        yield self.found(
            "error" if needed > free else "warning",
            title,
            f"{count} of {gib(checkpoint)} each, and the finished model. A run stops where the disk is full.",
            "Lower training.keep, or give --out a folder on another disk.",
            figures=figures,
        )
