"""Questions about pictures, answered in a word or two and held against what ten people answered.

VQA (Antol et al. 2015, arXiv:1505.00468), VQAv2, OK-VQA, TextVQA and their like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chiasm.evaluation.answering import Answering
from chiasm.evaluation.metrics.reading import exact_match
from chiasm.evaluation.metrics.vqa_accuracy import vqa_accuracy
from chiasm.evaluation.open_ended import Figure
from chiasm.evaluation.task import Ask


@dataclass(frozen=True)
class VQA(Answering):
    """VQA accuracy, over all questions and by kind; and the share of replies that are one of the answers to the letter.

    The second, which few report, tells how much of the first comes from the normalisation of answers. A question with
    one known answer is right or wrong.
    """

    def figures(self, asked: Sequence[Ask], replies: Sequence[str]) -> Sequence[Figure]:
        pairs = list(zip(replies, (question.true for question in asked), strict=True))
        return (
            Figure("VQA accuracy", np.array([vqa_accuracy(*pair) for pair in pairs])),
            Figure("exact match with any", np.array([exact_match(*pair) for pair in pairs])),
        )
