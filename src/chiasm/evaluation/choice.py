"""Tasks whose every question is: which of these texts is true of this picture?"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from chiasm.evaluation.answers import TEXT, Rule
from chiasm.evaluation.confidence import confidences
from chiasm.evaluation.examples import example, picked
from chiasm.evaluation.ranking import Ranking, hit_share, stand
from chiasm.evaluation.result import Example, Shown
from chiasm.evaluation.task import (
    Failed,
    Items,
    Measured,
    MetricCounts,
    Request,
    Response,
    ScoreOrGenerate,
    ScoreRequest,
    Show,
    Task,
)

_UNPARSED = Failed("no answer was found in the reply")


@dataclass(frozen=True)
class Choice(Task, ABC):
    """A task of matches of one picture each; an item is right if a true column has the highest score.

    A tie of t candidates for the first place, m of them true, earns m / t. Chance is the mean of m / k over items.
    rule: how a reply in words is read as one of the choices.
    """

    rule: ClassVar[Rule] = TEXT

    def measure(self, questions: Sequence[Request], answers: Sequence[Response]) -> Measured:
        return Measured((self.accuracy(questions, answers),))

    def accuracy(
        self, questions: Sequence[Request], answers: Sequence[Response], name: str = "accuracy"
    ) -> MetricCounts:
        """The share of items whose best column is a true one, by kind; read leniently too if there are replies."""
        strict = self._accuracy(questions, answers, name, lenient=False)
        if not any(isinstance(one, str) for one in answers):
            return strict
        return replace(strict, lenient=self._accuracy(questions, answers, name, lenient=True))

    def _accuracy(
        self, questions: Sequence[Request], answers: Sequence[Response], name: str, lenient: bool
    ) -> MetricCounts:
        scores = as_scores(questions, answers, self.rule, lenient)
        metric = self.within(1, name, questions, ranking_of(questions, scores), by_kind=True)
        return replace(metric, items=items_read(metric.items, questions, answers, scores))

    def within(
        self, k: int, name: str, questions: Sequence[Request], standing: Ranking, *, by_kind: bool = False
    ) -> MetricCounts:
        """The share of items whose k best columns hold a true one."""
        counts = [(len(one.texts), len(one.true)) if isinstance(one, ScoreRequest) else (0, 0) for one in questions]
        candidates_I, right_I = np.array(counts, np.int64).reshape(-1, 2).T
        chance_I = hit_share(np.zeros_like(candidates_I), candidates_I, right_I, k)
        return MetricCounts(name, items_of(questions, standing), standing.hits(k), chance_I, by_kind=by_kind)

    def examples(self, questions: Sequence[Request], answers: Sequence[Response], show: Show) -> Sequence[Example]:
        scores = [
            np.zeros((1, len(question.texts)), np.float32)
            if one is _UNPARSED and isinstance(question, ScoreRequest)
            else one
            for question, one in zip(questions, as_scores(questions, answers, self.rule), strict=True)
        ]  # a reply without an answer is worth looking at: it is shown with no choice above the others
        standing = ranking_of(questions, scores)
        scores_IC, true_IC = padded(questions, scores)
        found = []
        for item in picked(standing.hits(1), scores_IC, true_IC):
            question, answer = questions[item], answers[item]
            assert isinstance(question, ScoreRequest)  # others have no scores, and so are not picked
            one = example(
                question.key,
                show(question.images[0]),
                scores_IC[item],
                true_IC[item],
                partial(_phrase, question),
                question.kind,
            )
            found.append(replace(one, reply=answer) if isinstance(answer, str) else one)
        return found


def if_ties(questions: Sequence[Request], answers: Sequence[Response], won: str = "won") -> dict[str, float]:
    """Accuracy in percent by the rules of official scripts, which give ties to the model, or to the other side."""
    standing = ranking_of(questions, answers)
    level_I = ~standing.failed_I & (standing.above_I == 0)
    alone_I = level_I & (standing.level_I == standing.right_I)
    won_share, lost_share = 100 * float(level_I.mean()), 100 * float(alone_I.mean())
    return {f"accuracy if ties were {won}, %": won_share, "accuracy if ties were lost, %": lost_share}


def as_scores(
    questions: Sequence[Request], answers: Sequence[Response], rule: Rule, lenient: bool = False
) -> list[Response]:
    """Replies in words as scores: 1 for the choice that the rule finds, 0 for the others; Failed where it finds none.

    What is not a reply to an `ScoreOrGenerate` stays as it is.
    """
    found: list[Response] = []
    for question, answer in zip(questions, answers, strict=True):
        if isinstance(answer, str) and isinstance(question, ScoreOrGenerate):
            place = (rule.lenient if lenient else rule.strict)(answer, question.choices)
            row = np.zeros((1, len(question.choices)), np.float32)
            row[0, place if place is not None else 0] = 1
            found.append(_UNPARSED if place is None else row)
        else:
            found.append(answer)
    return found


def items_read(
    items: Items, questions: Sequence[Request], answers: Sequence[Response], scores: Sequence[Response]
) -> Items:
    """The items with what was said in words, which replies hold no answer, and how sure the model was of its scores."""
    replied_I = np.array([isinstance(one, str) for one in answers], np.bool_)
    unparsed_I = np.array([one is _UNPARSED for one in scores], np.bool_)
    scores_IC, true_IC = padded(questions, scores)
    scores_IC[replied_I] = np.nan  # words carry no confidence
    return replace(
        items,
        said=tuple(one if isinstance(one, str) else said for one, said in zip(answers, items.said, strict=True)),
        failed_I=items.failed_I & ~unparsed_I,
        unparsed_I=unparsed_I,
        confidence_I=confidences(scores_IC, true_IC, items.samples),
    )


def ranking_of(questions: Sequence[Request], answers: Sequence[Response]) -> Ranking:
    """Where the true column of each question stands."""
    return stand(*padded(questions, answers))


def padded(questions: Sequence[Request], answers: Sequence[Response]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The scores of one-picture matches as one matrix (I, C), NaN where there is no candidate; and which are true."""
    widest = max((len(one.texts) for one in questions if isinstance(one, ScoreRequest)), default=0)
    scores_IC = np.full((len(questions), widest), np.nan, np.float32)
    true_IC = np.zeros((len(questions), widest), np.bool_)
    for at, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        if not isinstance(question, ScoreRequest):
            continue
        true_IC[at, list(question.true)] = True
        if not isinstance(answer, Failed):
            scores_IC[at, : len(question.texts)] = np.asarray(answer, np.float32)[0]
    return scores_IC, true_IC


def items_of(questions: Sequence[Request], standing: Ranking) -> Items:
    """One item a question."""
    return Items(
        keys=tuple(question.key for question in questions),
        samples=tuple(_sample(question) for question in questions),
        kinds=tuple("" if not isinstance(question, ScoreRequest) else question.kind for question in questions),
        tied_I=standing.tied_I,
        failed_I=standing.failed_I,
        said=tuple(_said(questions, standing)),
    )


def _phrase(question: ScoreRequest, column: int) -> Shown:
    return Shown(text=question.texts[column][0])


def _sample(question: Request) -> str:
    return question.sample or question.key if isinstance(question, ScoreRequest) else question.key


def _said(questions: Iterable[Request], standing: Ranking) -> Iterator[str]:
    for question, best, failed in zip(questions, standing.best_I.tolist(), standing.failed_I.tolist(), strict=True):
        yield question.texts[best][0] if isinstance(question, ScoreRequest) and not failed else ""
