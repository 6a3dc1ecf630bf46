"""Tasks whose every request is: which of these texts is true of this image?"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from chiasm.evaluation.answers import TEXT, ChoiceRule
from chiasm.evaluation.confidence import confidences
from chiasm.evaluation.examples import example, picked
from chiasm.evaluation.ranking import Ranking, hit_share, rank
from chiasm.evaluation.request import Failed, Request, Response, ScoreOrGenerate, ScoreRequest, of_type
from chiasm.evaluation.result import Example, TextOrImage
from chiasm.evaluation.task import Items, Measured, MetricCounts, Show, Task

_UNPARSED = Failed("no answer was found in the reply")


@dataclass(frozen=True)
class Choice(Task, ABC):
    """A task of score requests about one image each; an item is right if a true column has the highest score.

    A tie of t candidates for the best score, m of them true, earns m / t. Chance is the mean of m / k over items.
    rule: how a reply in words is read as one of the choices.
    """

    rule: ClassVar[ChoiceRule] = TEXT

    def measure(self, requests: Sequence[Request], responses: Sequence[Response]) -> Measured:
        return Measured((self.accuracy(requests, responses),))

    def accuracy(
        self, requests: Sequence[Request], responses: Sequence[Response], name: str = "accuracy"
    ) -> MetricCounts:
        """The share of items whose best column is a true one, by kind; read leniently too if there are replies."""
        strict = self._accuracy(requests, responses, name, lenient=False)
        if not any(isinstance(response, str) for response in responses):
            return strict
        return replace(strict, lenient=self._accuracy(requests, responses, name, lenient=True))

    def _accuracy(
        self, requests: Sequence[Request], responses: Sequence[Response], name: str, lenient: bool
    ) -> MetricCounts:
        scores = as_scores(requests, responses, self.rule, lenient)
        metric = self.within(1, name, requests, ranking_of(requests, scores), by_kind=True)
        return replace(metric, items=with_replies(metric.items, requests, responses, scores))

    def within(
        self, k: int, name: str, requests: Sequence[Request], ranking: Ranking, *, by_kind: bool = False
    ) -> MetricCounts:
        """The share of items whose k best columns hold a true one."""
        candidates_I, right_I = np.zeros((2, len(requests)), np.int64)
        for item, request in of_type(requests, ScoreRequest):
            candidates_I[item], right_I[item] = len(request.texts), len(request.true)
        chance_I = hit_share(np.zeros_like(candidates_I), candidates_I, right_I, k)
        return MetricCounts(name, items_of(requests, ranking), ranking.hits(k), chance_I, by_kind=by_kind)

    def examples(self, requests: Sequence[Request], responses: Sequence[Response], show: Show) -> Sequence[Example]:
        scores, asked = as_scores(requests, responses, self.rule), dict(of_type(requests, ScoreRequest))
        for item, request in asked.items():
            if scores[item] is _UNPARSED:  # worth looking at: it is shown with no choice above the others
                scores[item] = request.constant()
        ranking = ranking_of(requests, scores)
        scores_IC, true_IC = padded(requests, scores)
        found = []
        for item in picked(ranking.hits(1), scores_IC, true_IC):
            request, response = asked[item], responses[item]
            shown = example(
                request.key,
                show(request.images[0]),
                scores_IC[item],
                true_IC[item],
                partial(_phrase, request),
                request.kind,
            )
            found.append(replace(shown, reply=response) if isinstance(response, str) else shown)
        return found


def if_ties(requests: Sequence[Request], responses: Sequence[Response], won: str = "won") -> dict[str, float]:
    """Accuracy in percent by the rules of official scripts, which give ties to the model, or to the other side."""
    ranking = ranking_of(requests, responses)
    first_I = ~ranking.failed_I & (ranking.above_I == 0)
    alone_I = first_I & (ranking.level_I == ranking.right_I)
    won_share, lost_share = 100 * float(first_I.mean()), 100 * float(alone_I.mean())
    return {f"accuracy if ties were {won}, %": won_share, "accuracy if ties were lost, %": lost_share}


def as_scores(
    requests: Sequence[Request], responses: Sequence[Response], rule: ChoiceRule, lenient: bool = False
) -> list[Response]:
    """Replies in words as scores: 1 for the choice that the rule finds, 0 for the others; Failed where it finds none.

    What is not a reply to a `ScoreOrGenerate` stays as it is.
    """
    found = list(responses)
    read = rule.lenient if lenient else rule.strict
    for item, request in of_type(requests, ScoreOrGenerate):
        if isinstance(reply := responses[item], str):
            chosen = read(reply, request.choices)
            row = np.zeros((1, len(request.choices)), np.float32)
            row[0, chosen if chosen is not None else 0] = 1
            found[item] = _UNPARSED if chosen is None else row
    return found


def with_replies(
    items: Items, requests: Sequence[Request], responses: Sequence[Response], scores: Sequence[Response]
) -> Items:
    """The items with the replies in words, which of these hold no answer, and how sure the model was of its scores."""
    replied_I = np.array([isinstance(response, str) for response in responses], np.bool_)
    unparsed_I = np.array([row is _UNPARSED for row in scores], np.bool_)
    scores_IC, true_IC = padded(requests, scores)
    scores_IC[replied_I] = np.nan  # words carry no confidence
    pairs = zip(responses, items.choices, strict=True)
    return replace(
        items,
        choices=tuple(response if isinstance(response, str) else choice for response, choice in pairs),
        failed_I=items.failed_I & ~unparsed_I,
        unparsed_I=unparsed_I,
        confidence=partial(confidences, scores_IC, true_IC, items.samples),
    )


def ranking_of(requests: Sequence[Request], responses: Sequence[Response]) -> Ranking:
    """The rank of the true column of each request."""
    return rank(*padded(requests, responses))


def padded(requests: Sequence[Request], responses: Sequence[Response]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(I, C) the scores of requests about one image, NaN where there is no candidate; and which are true."""
    asked = of_type(requests, ScoreRequest)
    widest = max((len(request.texts) for _, request in asked), default=0)
    scores_IC = np.full((len(requests), widest), np.nan, np.float32)
    true_IC = np.zeros((len(requests), widest), np.bool_)
    for item, request in asked:
        true_IC[item, list(request.true)] = True
        if not isinstance(response := responses[item], Failed):
            scores_IC[item, : len(request.texts)] = np.asarray(response, np.float32)[0]
    return scores_IC, true_IC


def items_of(requests: Sequence[Request], ranking: Ranking) -> Items:
    """The items: one per request."""
    best = ranking.best_I.tolist()
    choices = [""] * len(requests)
    for item, request in of_type(requests, ScoreRequest):
        if not ranking.failed_I[item]:
            choices[item] = request.texts[best[item]][0]
    return Items(
        keys=tuple(request.key for request in requests),
        samples=tuple(request.cluster for request in requests),
        kinds=tuple(request.kind for request in requests),
        tied_I=ranking.tied_I,
        failed_I=ranking.failed_I,
        choices=tuple(choices),
    )


def _phrase(request: ScoreRequest, column: int) -> TextOrImage:
    return TextOrImage(text=request.texts[column][0])
