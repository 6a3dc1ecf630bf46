"""LoRA: low-rank updates of linear layers (Hu et al. 2021, arXiv:2106.09685); DoRA (Liu et al. 2024, 2402.09353)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chiasm.adaptation.peft_adapter import PeftConfig, require_peft
from chiasm.errors import RecipeError


@dataclass(frozen=True)
class Config(PeftConfig):
    """y = W x + (alpha / rank) B A x, where A has `rank` rows and B begins at zero.

    dropout: of what A is given. rank_stabilised: alpha / sqrt(rank) instead (Kalajdzievski 2023, arXiv:2312.03732).
    dora: length and direction of the changed rows of W learn apart.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    rank_stabilised: bool = False
    dora: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise RecipeError(
                "adapters: lora's rank is at least 1, alpha above 0 and dropout from 0 to below 1, not "
                f"{self.rank}, {self.alpha:g} and {self.dropout:g}"
            )

    def for_peft(self, targets: list[str]) -> Any:
        return require_peft().LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            use_rslora=self.rank_stabilised,
            use_dora=self.dora,
            target_modules=targets,
        )
