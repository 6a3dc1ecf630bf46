"""Questions about pictures, answered in a word or two and compared with the answers of ten people.

VQA (Antol et al. 2015, arXiv:1505.00468), VQAv2, OK-VQA, TextVQA and their like."""

from __future__ import annotations

from dataclasses import dataclass

from chiasm.evaluation.answering import Answering, AnswerMetric
from chiasm.evaluation.metrics.ocr import exact_match
from chiasm.evaluation.metrics.vqa_accuracy import vqa_accuracy


@dataclass(frozen=True)
class VQA(Answering):
    """VQA accuracy, over all questions and by kind; and the share of replies that are one of the answers to the letter.

    The second, which few report, says how much of the first comes from the normalisation of answers. A question with
    one known answer is right or wrong.
    """

    def answer_metrics(self) -> tuple[AnswerMetric, ...]:
        return AnswerMetric("VQA accuracy", vqa_accuracy), AnswerMetric("exact match with any", exact_match)
