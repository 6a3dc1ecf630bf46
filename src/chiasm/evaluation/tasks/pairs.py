"""Hard negatives: an image with its caption and one that a small change made false; the true one must score higher.

SugarCrepe (Hsieh et al. 2023, arXiv:2306.14610), the scenes' negatives and their like. Unlike the official scripts,
which compare with > or >=, a tie earns one half: a scorer that cannot tell the two apart gets chance, never a win.
The facts hold what either comparison would have given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chiasm.data.sample import Sample
from chiasm.evaluation.choice import Choice, if_ties
from chiasm.evaluation.request import Request, Response, ScoreRequest
from chiasm.evaluation.task import Measured


@dataclass(frozen=True)
class Pairs(Choice):
    """One item a negative of each sample; accuracy over all and by the kind of change. Chance is one half."""

    def construct_requests(self, sample: Sample) -> Iterator[ScoreRequest]:
        for number, negative in enumerate(sample.negatives):
            yield ScoreRequest(
                key=f"{sample.key}/{negative.kind}/{number}",
                images=(sample.image,),
                texts=((negative.true,), (negative.text,)),
                true=(0,),
                kind=negative.kind,
                sample_key=sample.key,
            )

    def measure(self, requests: Sequence[Request], responses: Sequence[Response]) -> Measured:
        return Measured((self.accuracy(requests, responses),), if_ties(requests, responses))
