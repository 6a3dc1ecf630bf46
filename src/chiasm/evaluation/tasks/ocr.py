"""Questions whose answers are read off the picture: documents, receipts, scene text and charts.

ANLS for DocVQA, InfographicVQA and ST-VQA (Biten et al. 2019, arXiv:1905.13648), relaxed accuracy for ChartQA (Masry
et al. 2022, arXiv:2203.10244)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from chiasm.errors import RecipeError
from chiasm.evaluation.answering import Answering, AnswerMetric
from chiasm.evaluation.metrics.ocr import anls, exact_match, relaxed_accuracy

_METRICS = {
    "ANLS": AnswerMetric("ANLS", anls),
    "relaxed accuracy": AnswerMetric("relaxed accuracy", relaxed_accuracy, numeric=True),
    "exact match": AnswerMetric("exact match", exact_match),
}


@dataclass(frozen=True)
class OCR(Answering):
    """The given metrics, over all questions and by kind, the first being the headline. The best answer counts.

    metrics: for ChartQA put "relaxed accuracy" first.
    """

    max_tokens: int = 32
    metrics: tuple[Literal["ANLS", "relaxed accuracy", "exact match"], ...] = ("ANLS", "exact match")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.metrics:
            raise RecipeError(f"task '{self.title}' has no metrics; give at least one of {', '.join(_METRICS)}")

    def answer_metrics(self) -> list[AnswerMetric]:
        return [_METRICS[name] for name in self.metrics]
