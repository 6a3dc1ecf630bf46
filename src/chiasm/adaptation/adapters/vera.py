"""VeRA: random matrices that all layers share, and two learned vectors a layer (Kopiczko et al. 2023, 2310.11454)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chiasm.adaptation.peft_adapter import PeftConfig, require_peft
from chiasm.errors import RecipeError


@dataclass(frozen=True)
class Config(PeftConfig):
    """y = W x + b * (B (d * (A x))): A and B are random, follow from `seed` and stay; d and b learn.

    initial: what d begins at; b begins at zero.
    """

    rank: int = 256
    initial: float = 0.1
    dropout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 <= self.dropout < 1:
            raise RecipeError(
                f"adapters: vera's rank is at least 1 and dropout below 1, not {self.rank} and {self.dropout:g}"
            )

    def for_peft(self, targets: list[str]) -> Any:
        return require_peft().VeraConfig(
            r=self.rank,
            d_initial=self.initial,
            vera_dropout=self.dropout,
            projection_prng_key=self.seed,
            target_modules=targets,
        )
