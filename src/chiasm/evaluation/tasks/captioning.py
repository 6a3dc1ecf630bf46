"""Captions for pictures, in the model's words, held against those that people wrote.

BLEU, ROUGE-L, METEOR and CIDEr as on COCO's captions (Chen et al. 2015, arXiv:1504.00325); CLIPScore and RefCLIPScore
(Hessel et al. 2021, arXiv:2104.08718) by any model of chiasm that embeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chiasm.config import suggest
from chiasm.data.sample import Sample
from chiasm.errors import DataError, RecipeError
from chiasm.evaluation.judge import Judge
from chiasm.evaluation.metrics import bleu, meteor
from chiasm.evaluation.metrics.captions import Captions, medoid
from chiasm.evaluation.metrics.cider import cider
from chiasm.evaluation.metrics.clip_score import PREFIX, clip_score, ref_clip_score
from chiasm.evaluation.metrics.rouge_l import rouge_l
from chiasm.evaluation.open_ended import Figure, OpenEnded
from chiasm.evaluation.task import Corpus, GenerateRequest, Request, Response

_COUNTED = ("CIDEr", "BLEU", "ROUGE-L", "METEOR")  # by tokens
_JUDGED = ("CLIPScore", "RefCLIPScore")  # by a model


@dataclass(frozen=True)
class Captioning(OpenEnded):
    """The given metrics, the first being the headline; with several captions a picture, what people reach too.

    CIDEr weighs n-grams by how rare they are in the references of the very pictures that are asked about: it may not be
    compared between sets, nor between a set and its part. BLEU and METEOR are of all captions together; what an item
    is shown with is its own. The facts tell what one person's caption (each picture's first) earns against the others'.
    The constant caption is the medoid: the reference that is most like all references, for every picture.
    prompt: what the model is asked; "" shows it the picture alone. metrics: of CIDEr, BLEU, ROUGE-L, METEOR (needs Java
        and chiasm[meteor]), CLIPScore, RefCLIPScore (need a judge).
    judge: the folder of a model that embeds. A protocol names it by its weights.
    """

    max_tokens: int = 40
    prompt: str = "Describe the image in one sentence."
    metrics: tuple[str, ...] = ("CIDEr", "BLEU", "ROUGE-L")
    judge: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        known = (*_COUNTED, *_JUDGED)
        if "SPICE" in self.metrics:
            raise RecipeError(
                f"task '{self.title}' asks for SPICE, which is left out because its program downloads a parser when it "
                "runs; CIDEr and METEOR are nearest to it"
            )
        if odd := [name for name in self.metrics if name not in known]:
            raise RecipeError(f"task '{self.title}' has no metric '{odd[0]}'{suggest(odd[0], known)}")
        if not self.metrics:
            raise RecipeError(f"task '{self.title}' has no metrics; give at least one of {', '.join(known)}")
        if self._is_judged and self.judge is None:
            raise RecipeError(
                f"task '{self.title}' needs a `judge` for its CLIPScore: the folder of a model that embeds"
            )
        if self.judge is not None and not self._is_judged:
            raise RecipeError(f"task '{self.title}' has a judge but asks for none of {', '.join(_JUDGED)}")

    @property
    def _is_judged(self) -> bool:
        return any(name in _JUDGED for name in self.metrics)

    def questions(self) -> Sequence[Request]:
        """Made only where everything that the metrics need is there."""
        if "METEOR" in self.metrics:
            meteor.expect_meteor()
        if self._is_judged:
            self._judge.check()
        return super().questions()

    def ask(self, sample: Sample) -> list[GenerateRequest]:
        if not any(caption.strip() for caption in sample.captions):
            raise DataError(f"sample '{sample.key}' has no captions to hold the model's against")
        return [self.put(sample, sample.key, self.prompt, sample.captions)]

    def settings(self) -> Mapping[str, object]:
        return {**super().settings(), "judge": self._judge.fingerprint if self._is_judged else None}

    def constant(self, question: Request) -> Response:
        return self._medoid if isinstance(question, GenerateRequest) else super().constant(question)

    def figures(self, asked: Sequence[GenerateRequest], replies: Sequence[str]) -> Sequence[Figure]:
        if (known := self._known.get((len(asked), tuple(replies)))) is not None:
            return known
        references = [question.true for question in asked]
        captions = Captions(replies, references)
        found: list[Figure] = []
        for name in self.metrics:
            if name in _COUNTED:
                found += counted(name, captions)
            else:
                found.append(Figure(name, self._judged(name, asked, replies, references)))
        self._known[len(asked), tuple(replies)] = found
        return found

    def facts(self) -> Mapping[str, float]:
        return self._people

    def right_from(self) -> NDArray[np.float64]:
        """What the constant caption earns: a reply that earns no more tells nothing of its picture."""
        constant = self.measure(self.asked, [self.constant(question) for question in self.asked])
        return np.nextafter(constant.metrics[0].credit_I, np.inf)

    def _judged(
        self, name: str, asked: Sequence[GenerateRequest], replies: Sequence[str], references: Sequence[tuple[str, ...]]
    ) -> NDArray[np.float64]:
        image_AD = self._judge.pictures([question.images[0] for question in asked])
        said_AD = self._judge.texts([PREFIX + reply for reply in replies])
        if name == "CLIPScore":
            return clip_score(image_AD, said_AD)
        referred_RD = self._judge.texts([PREFIX + one for one in chain.from_iterable(references)])
        return ref_clip_score(image_AD, said_AD, referred_RD, np.array([len(several) for several in references]))

    @cached_property
    def _judge(self) -> Judge:
        assert self.judge is not None  # __post_init__ saw to it
        return Judge(self.judge)

    @cached_property
    def _known(self) -> dict[tuple[int, tuple[str, ...]], Sequence[Figure]]:
        """What replies were worth; some metrics take long, and examples ask again."""
        return {}

    @cached_property
    def _medoid(self) -> str:
        return medoid(
            [caption for question in self.asked if isinstance(question, GenerateRequest) for caption in question.true]
        )

    @cached_property
    def _people(self) -> Mapping[str, float]:
        several = [one for one in self.asked if isinstance(one, GenerateRequest) and len(one.true) > 1]
        if not several:
            return {}
        others = [replace(one, true=one.true[1:]) for one in several]
        found = self.figures(others, [one.true[0] for one in several])
        name = "people's {}, one caption against the others"
        return {name.format(one.name): _value(one) for one in found}


def counted(name: str, captions: Captions) -> list[Figure]:
    """A metric that counts tokens; BLEU is four figures, the headline of which is BLEU-4."""
    if name == "CIDEr":
        return [Figure(name, cider(captions))]
    if name == "ROUGE-L":
        return [Figure(name, rouge_l(captions))]
    if name == "METEOR":
        counts_IX = meteor.counts(captions)
        return [Figure(name, meteor.meteor(counts_IX), Corpus(counts_IX, meteor.meteor, "sentence METEOR"))]
    counts_IX = bleu.counts(captions)
    single_I4 = bleu.bleu(counts_IX)
    return [
        Figure(f"BLEU-{n}", single_I4[:, n - 1], Corpus(counts_IX, partial(_bleu, n), f"sentence BLEU-{n}"))
        for n in range(bleu.ORDERS, 0, -1)
    ]


def _bleu(order: int, counts_RX: NDArray[np.float64]) -> NDArray[np.float64]:
    return bleu.bleu(counts_RX)[:, order - 1]


def _value(figure: Figure) -> float:
    if figure.corpus is None:
        return float(figure.credit_A.mean())
    return float(figure.corpus.of(figure.corpus.counts_IS.sum(axis=0, keepdims=True))[0])
