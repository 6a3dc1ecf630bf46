"""Tasks whose every question is: which of these texts is true of this picture?"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from chiasm.evaluation.examples import example, picked
from chiasm.evaluation.ranking import Standing, hit_share, stand
from chiasm.evaluation.result import Example, Shown
from chiasm.evaluation.task import Answer, Failed, Items, Match, Measured, Question, Show, Tally, Task


@dataclass(frozen=True)
class Choice(Task, ABC):
    """A task of matches of one picture each; an item is right if a true column has the highest score.

    A tie of t candidates for the first place, m of them true, earns m / t. Chance is the mean of m / k over items.
    """

    def measure(self, questions: Sequence[Question], answers: Sequence[Answer]) -> Measured:
        standing = stand_in(questions, answers)
        return Measured((self.within(1, "accuracy", questions, standing, by_kind=True),))

    def within(
        self, k: int, name: str, questions: Sequence[Question], standing: Standing, *, by_kind: bool = False
    ) -> Tally:
        """The share of items whose k best columns hold a true one."""
        counts = [(len(one.texts), len(one.true)) if isinstance(one, Match) else (0, 0) for one in questions]
        candidates_I, right_I = np.array(counts, np.int64).reshape(-1, 2).T
        chance_I = hit_share(np.zeros_like(candidates_I), candidates_I, right_I, k)
        return Tally(name, items_of(questions, standing), standing.hits(k), chance_I, by_kind=by_kind)

    def examples(self, questions: Sequence[Question], answers: Sequence[Answer], show: Show) -> Sequence[Example]:
        standing = stand_in(questions, answers)
        scores_IC, true_IC = padded(questions, answers)
        found = []
        for item in picked(standing.hits(1), scores_IC, true_IC):
            question = questions[item]
            assert isinstance(question, Match)  # others have no scores, and so are not picked
            found.append(
                example(
                    question.key,
                    show(question.images[0]),
                    scores_IC[item],
                    true_IC[item],
                    partial(_phrase, question),
                    question.kind,
                )
            )
        return found


def stand_in(questions: Sequence[Question], answers: Sequence[Answer]) -> Standing:
    """Where the true column of each question stands."""
    return stand(*padded(questions, answers))


def padded(questions: Sequence[Question], answers: Sequence[Answer]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The scores of one-picture matches as one matrix (I, C), NaN where there is no candidate; and which are true."""
    widest = max((len(one.texts) for one in questions if isinstance(one, Match)), default=0)
    scores_IC = np.full((len(questions), widest), np.nan, np.float32)
    true_IC = np.zeros((len(questions), widest), np.bool_)
    for at, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        if not isinstance(question, Match):
            continue
        true_IC[at, list(question.true)] = True
        if not isinstance(answer, Failed):
            scores_IC[at, : len(question.texts)] = np.asarray(answer, np.float32)[0]
    return scores_IC, true_IC


def items_of(questions: Sequence[Question], standing: Standing) -> Items:
    """One item a question."""
    return Items(
        keys=tuple(question.key for question in questions),
        samples=tuple(_sample(question) for question in questions),
        kinds=tuple("" if not isinstance(question, Match) else question.kind for question in questions),
        tied_I=standing.tied_I,
        failed_I=standing.failed_I,
        said=tuple(_said(questions, standing)),
    )


def _phrase(question: Match, column: int) -> Shown:
    return Shown(text=question.texts[column][0])


def _sample(question: Question) -> str:
    return question.sample or question.key if isinstance(question, Match) else question.key


def _said(questions: Iterable[Question], standing: Standing) -> Iterator[str]:
    for question, best, failed in zip(questions, standing.best_I.tolist(), standing.failed_I.tolist(), strict=True):
        yield question.texts[best][0] if isinstance(question, Match) and not failed else ""
