"""The `training` entries of a recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from chiasm.errors import RecipeError
from chiasm.nn.precision import PrecisionChoice
from chiasm.training.tracker import TrackerConfig


@dataclass(frozen=True)
class PartSettings:
    """The settings of one part of the model; the longest name that fits a tensor's name decides."""

    frozen: bool = False
    learning_rate: float | None = None
    weight_decay: float | None = None
    layer_decay: float | None = None


@dataclass(frozen=True)
class Training:
    """The settings of one training run.

    steps: optimiser steps; each sees `data.batch_size` samples.
    optimiser: "adamw", or "muon" for the matrices of linear layers and AdamW for the rest; on small models Muon learns
        several times faster.
    learning_rate: its peak. schedule: how it goes on after a linear rise over `warmup`, a share of all steps:
        "constant"; "cosine" and "linear" fall to `final_learning_rate` (a share of the peak) at the last step; "wsd"
        stays and falls linearly over the last `decay` share of the steps (Hu et al. 2024, arXiv:2404.06395).
    weight_decay: of the weights of linear layers, convolutions and embeddings; all else (biases, norms, temperatures,
        learned positions, class tokens) is never decayed.
    layer_decay: what each layer's rate is of that of the layer above it. 1 is one rate for all; fine-tuning often takes
        0.6 to 0.9, so that low layers keep what they know (Bao et al. 2021, arXiv:2106.08254). Heads and scalars have
        the full rate, the embeddings below a tower's first layer the lowest.
    clip_norm: largest norm of the whole gradient; None leaves it.
    accumulate: parts a batch is split into, to save memory. The loss stays that of the whole batch: models that compare
        samples with each other compute their features twice for it (see chiasm.training.cached).
    recompute: transformer layers keep only their input, and are computed again in the backward pass: much less memory,
        about a third more time.
    loss_weights: what each named loss counts in the sum; 1 where not given.
    parts: exceptions by part of the model, such as `vision: {frozen: true}`; `language: {frozen: true}` with
        `language.look: {}` freezes all of the former but the latter.
    precision: of the forward pass; weights, losses and the optimiser stay float32. "auto" takes bf16 where the device
        multiplies bf16 matrices clearly faster than float32 ones, which is measured as the run begins; a resumed run
        goes on in what it began in.
    ema: decay of an average of the weights, saved beside them and evaluated in their place; None keeps none.
    evaluate_every, checkpoint_every, log_every: in steps; 0 means never.
    keep: newest checkpoints kept. keep_every: those at multiples of it are kept for good. best: a figure of the
        evaluation in training, such as "retrieval: image to text R@1"; checkpoints are saved at evaluations too, and
        the `keep_best` with its highest values are kept.
    parallel: how several processes share the work: "ddp" copies the model, "fsdp" slices it; "auto" is ddp where
        torchrun started several. One process is the same in all of them. timeout: seconds until a process that does not
        answer is given up.
    on_nonfinite: a loss or gradient that is not finite stops the run, or its step is skipped and counted.
    trackers: where the figures of metrics.jsonl are shown too, such as `[tensorboard]` or
        `[{tracker: wandb, project: mine}]`.
    """

    steps: int
    optimiser: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "cosine"
    warmup: float = 0.0
    decay: float = 0.2
    final_learning_rate: float = 0.0
    weight_decay: float = 0.1
    layer_decay: float = 1.0
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = 1e-6
    clip_norm: float | None = 1.0
    accumulate: int = 1
    recompute: bool = False
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, PartSettings] = field(default_factory=dict)
    precision: PrecisionChoice = "float32"
    compile: bool = False
    ema: float | None = None
    device: str = "auto"
    evaluate_every: int = 0
    checkpoint_every: int = 0
    keep: int = 2
    keep_every: int = 0
    keep_best: int = 1
    best: str | None = None
    log_every: int = 10
    on_nonfinite: Literal["stop", "skip"] = "stop"
    parallel: Literal["auto", "none", "ddp", "fsdp"] = "auto"
    timeout: float = 600.0
    trackers: tuple[TrackerConfig, ...] = ()

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "keep", "keep_best", "log_every", "timeout"):
            if getattr(self, name) < 1:
                raise RecipeError(f"training.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("learning_rate", "weight_decay", "epsilon", "evaluate_every", "checkpoint_every", "keep_every"):
            if not 0 <= getattr(self, name) < math.inf:
                raise RecipeError(f"training.{name} must not be negative, but is {getattr(self, name)}")
        for where, decay in {
            "": self.layer_decay,
            **{f"parts.{n}.": p.layer_decay for n, p in self.parts.items()},
        }.items():
            if decay is not None and not 0 < decay <= 1:
                raise RecipeError(f"training.{where}layer_decay is a share, above 0 and up to 1, not {decay}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise RecipeError(f"training.betas must lie between 0 and 1, not at {self.betas}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise RecipeError(f"training.ema is a decay between 0 and 1, not {self.ema}")
        if not 0 <= self.warmup <= 1:
            raise RecipeError(f"training.warmup is a share of the steps, 0 to 1, not {self.warmup:g}")
        if self.best is not None and not self.evaluate_every:
            raise RecipeError("training.best names a figure of the evaluation in training; set training.evaluate_every")

    def part_of(self, name: str) -> str | None:
        """The entry of `parts` that holds for a tensor or a part of the model: the longest name that fits."""
        fitting = [part for part in self.parts if name == part or name.startswith(f"{part}.")]
        return max(fitting, key=len, default=None)
