"""Ranks of the right candidates, with the expectation over all tie-breakings in closed form."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

_CELLS = 4_000_000  # scores looked at together; bounds memory


@dataclass(frozen=True)
class Ranking:
    """The rank of the best right candidate among C candidates, for each of I items.

    above_I: candidates with a higher score (all of them wrong). level_I: candidates with the same score, itself
    included. right_I: how many of these are right. tied_I: several candidates share the item's best score.
    failed_I: no right candidate has a score. best_I: index of the (first) best candidate.
    """

    above_I: NDArray[np.int64]
    level_I: NDArray[np.int64]
    right_I: NDArray[np.int64]
    tied_I: NDArray[np.bool_]
    failed_I: NDArray[np.bool_]
    best_I: NDArray[np.int64]

    def hits(self, k: int) -> NDArray[np.float64]:
        """Share of all tie-breakings that put a right candidate among the first k; 0 where the item failed."""
        return np.where(self.failed_I, 0.0, hit_share(self.above_I, self.level_I, self.right_I, k))

    def ranks(self) -> NDArray[np.float64]:
        """Mean rank, over all tie-breakings, of the first right candidate; 1 is best. Infinite where it failed.

        The first of m right ones among t tied stands at (t + 1) / (m + 1) on average.
        """
        ranks = self.above_I + (self.level_I + 1) / (self.right_I + 1)
        return np.where(self.failed_I, np.inf, ranks)


def hit_share(
    above_I: NDArray[np.int64], level_I: NDArray[np.int64], right_I: NDArray[np.int64], k: int
) -> NDArray[np.float64]:
    """Chance that the k best hold a right candidate, if `above` wrong ones lead and `level` tie, `right` of them right.

    The positions left are r = k - above; drawn from the tied ones without replacement they miss every right one with
    chance C(t - m, r) / C(t, r), the product over j < r of (t - m - j) / (t - j). With above = 0 and all candidates
    tied it is the chance level of recall@k.
    """
    places_I = np.clip(k - above_I, 0, level_I)
    missed_I = np.ones(len(above_I))
    for j in range(int(places_I.max(initial=0))):
        left_I = np.maximum(level_I - right_I - j, 0) / np.maximum(level_I - j, 1)
        missed_I *= np.where(j < places_I, left_I, 1.0)
    return 1 - missed_I


def rank(scores_IC: NDArray[np.float32], true_IC: NDArray[np.bool_]) -> Ranking:
    """Where the right candidates stand. A score of NaN is no candidate: items may have different numbers of them."""
    rows = max(1, _CELLS // max(1, scores_IC.shape[1]))
    starts = range(0, max(1, len(scores_IC)), rows)
    parts = [_rank(scores_IC[at : at + rows], true_IC[at : at + rows]) for at in starts]
    joined = {entry.name: np.concatenate([getattr(part, entry.name) for part in parts]) for entry in fields(Ranking)}
    return Ranking(**joined)


def _rank(scores_IC: NDArray[np.float32], true_IC: NDArray[np.bool_]) -> Ranking:
    present_IC = ~np.isnan(scores_IC)
    right_IC = true_IC & present_IC
    best_right_I1 = np.where(right_IC, scores_IC, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    level_IC = scores_IC == best_right_I1
    best_I1 = np.where(present_IC, scores_IC, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    first_IC = scores_IC == best_I1
    return Ranking(
        above_I=np.asarray((scores_IC > best_right_I1).sum(axis=1)),
        level_I=np.asarray(level_IC.sum(axis=1)),
        right_I=np.asarray((level_IC & right_IC).sum(axis=1)),
        tied_I=np.asarray(first_IC.sum(axis=1) > 1),
        failed_I=np.asarray(~right_IC.any(axis=1)),
        best_I=first_IC.argmax(axis=1) if scores_IC.shape[1] else np.zeros(len(scores_IC), np.int64),
    )
