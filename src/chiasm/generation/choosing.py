"""From scores of the next token to one token: the most likely, or one drawn at random within bounds.

Shapes: R rows, V vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chiasm.errors import RecipeError
from chiasm.nn.precision import at_least_float32


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. Bounds apply in this order: temperature, top_k, top_p, min_p, as in transformers.

    temperature: divides the scores; 0 takes the most likely token (greedy), and the rest has no effect.
    top_k: among the k most likely; 0 for all.
    top_p: among the fewest that hold this share of the probability (Holtzman et al. 2019, arXiv:1904.09751).
    min_p: among those at least so likely as this share of the most likely one (Nguyen et al. 2024, arXiv:2407.01082).
    repetition_penalty: scores of tokens that the row already holds are divided (negative ones multiplied) by it
        (Keskar et al. 2019, arXiv:1909.05858); 1 for none.
    seed: of the draws; the same seed gives the same tokens.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or self.repetition_penalty <= 0:
            raise RecipeError(
                "sampling: temperature and top_k must not be negative, repetition_penalty must be positive"
            )
        if not (0 < self.top_p <= 1 and 0 <= self.min_p <= 1):
            raise RecipeError(f"sampling: top_p ({self.top_p}) and min_p ({self.min_p}) are shares, 0 to 1")


def choose(scores_RV: Tensor, sampling: Sampling, generator: torch.Generator | None) -> Tensor:
    """(R,) the chosen tokens."""
    if sampling.temperature == 0:
        return scores_RV.argmax(-1)
    chances_RV = bounded(scores_RV.float(), sampling).softmax(-1)
    return torch.multinomial(chances_RV, 1, generator=generator)[:, 0]


def bounded(scores_RV: Tensor, sampling: Sampling) -> Tensor:
    """The scores divided by the temperature, with minus infinity for the tokens out of bounds."""
    scores_RV = scores_RV / sampling.temperature
    if 0 < sampling.top_k < scores_RV.shape[-1]:
        least = scores_RV.topk(sampling.top_k).values[:, -1:]
        scores_RV = scores_RV.masked_fill(scores_RV < least, -torch.inf)
    if sampling.top_p < 1:
        ordered, indexes = scores_RV.sort(descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)  # held by the more likely ones
        out = torch.zeros_like(scores_RV, dtype=torch.bool).scatter(-1, indexes, before >= sampling.top_p)
        scores_RV = scores_RV.masked_fill(out, -torch.inf)
    if sampling.min_p > 0:
        chances = scores_RV.softmax(-1)
        scores_RV = scores_RV.masked_fill(chances < sampling.min_p * chances.amax(-1, keepdim=True), -torch.inf)
    return scores_RV


def penalised(scores_RV: Tensor, held: list[list[int]], penalty: float) -> Tensor:
    """Scores of the tokens that each row already holds, made smaller by the repetition penalty."""
    if penalty == 1:
        return scores_RV
    scores_RV = at_least_float32(scores_RV).clone()
    for row, tokens in enumerate(held):
        known = torch.tensor(sorted(set(tokens)), dtype=torch.long, device=scores_RV.device)
        scores = scores_RV[row, known]
        scores_RV[row, known] = torch.where(scores < 0, scores * penalty, scores / penalty)
    return scores_RV
