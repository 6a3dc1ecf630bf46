"""Captions for images, in the model's words, compared with those that people wrote.

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
from chiasm.errors import CapabilityError, DataError, RecipeError
from chiasm.evaluation.judge import Judge
from chiasm.evaluation.metrics import bleu, meteor
from chiasm.evaluation.metrics.captions import TokenizedCaptions, medoid
from chiasm.evaluation.metrics.cider import cider
from chiasm.evaluation.metrics.clip_score import PREFIX, clip_score, ref_clip_score
from chiasm.evaluation.metrics.rouge_l import rouge_l
from chiasm.evaluation.open_ended import Figure, OpenEnded
from chiasm.evaluation.request import GenerateRequest, Request, Response, of_type
from chiasm.evaluation.task import Corpus
from chiasm.models.model import Loader

_COUNTED = ("CIDEr", "BLEU", "ROUGE-L", "METEOR")  # by tokens
_JUDGED = ("CLIPScore", "RefCLIPScore")  # by a model


@dataclass(frozen=True)
class Captioning(OpenEnded):
    """The given metrics, the first being the headline; with several captions an image, what people reach too.

    CIDEr weighs n-grams by how rare they are in the references of the very images of the task: it may not be
    compared between sets, nor between a set and its part. BLEU and METEOR are of all captions together; what an item
    is shown with is its own. The facts hold what one person's caption (each image's first) earns against the others'.
    The constant caption is the medoid: the reference that is most like all references, for every image.
    prompt: what the model is asked; "" shows it the image alone. metrics: of CIDEr, BLEU, ROUGE-L, METEOR (needs Java
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

    def use_loader(self, load: Loader) -> None:
        self._loader[:] = [load]
        if self._is_judged:
            self._judge.check()

    def build_all_requests(self) -> Sequence[Request]:
        """Made only where everything that the metrics need is there."""
        if "METEOR" in self.metrics:
            meteor.expect_meteor()
        return super().build_all_requests()

    def construct_requests(self, sample: Sample) -> list[GenerateRequest]:
        if not any(caption.strip() for caption in sample.captions):
            raise DataError(f"sample '{sample.key}' has no captions to compare the model's with")
        return [self.put(sample, sample.key, self.prompt, sample.captions)]

    def settings(self) -> Mapping[str, object]:
        return {**super().settings(), "judge": self._judge.fingerprint if self._is_judged else None}

    def constant(self, request: Request) -> Response:
        return self._medoid if request.verbs else super().constant(request)

    def figures(self, requests: Sequence[GenerateRequest], replies: Sequence[str]) -> Sequence[Figure]:
        references = [request.references for request in requests]
        asked = tuple(references), tuple(replies)
        if (known := self._known.get(asked)) is not None:
            return known
        captions = TokenizedCaptions(replies, references)
        found: list[Figure] = []
        for name in self.metrics:
            if name in _COUNTED:
                found += counted(name, captions)
            else:
                found.append(Figure(name, self._judged(name, requests, replies, references)))
        self._known[asked] = found
        return found

    def facts(self) -> Mapping[str, float]:
        return self._people

    def right_from(self) -> NDArray[np.float64]:
        """The credit of the constant caption: a reply that earns no more says nothing of its image."""
        constant = self.measure(self.requests, [self.constant(request) for request in self.requests])
        return np.nextafter(constant.metrics[0].credit_I, np.inf)

    def _judged(
        self,
        name: str,
        requests: Sequence[GenerateRequest],
        replies: Sequence[str],
        references: Sequence[tuple[str, ...]],
    ) -> NDArray[np.float64]:
        image_AD = self._judge.images([request.all_images[0] for request in requests])
        reply_AD = self._judge.texts([PREFIX + reply for reply in replies])
        if name == "CLIPScore":
            return clip_score(image_AD, reply_AD)
        reference_RD = self._judge.texts([PREFIX + caption for caption in chain.from_iterable(references)])
        return ref_clip_score(image_AD, reply_AD, reference_RD, np.array([len(several) for several in references]))

    @cached_property
    def _judge(self) -> Judge:
        assert self.judge is not None  # __post_init__ saw to it
        if not self._loader:
            raise CapabilityError(
                f"task '{self.title}' has a judge, and nothing opens its folder; give `evaluate` "
                "RunOptions(load=chiasm.load)"
            )
        return Judge(self.judge, self._loader[0])

    @cached_property
    def _loader(self) -> list[Loader]:
        """What opens the judge's folder, once `use_loader` was called."""
        return []

    @cached_property
    def _known(self) -> dict[tuple[tuple[tuple[str, ...], ...], tuple[str, ...]], Sequence[Figure]]:
        """What replies were worth against references; some metrics take long, and examples ask again."""
        return {}

    @cached_property
    def _medoid(self) -> str:
        requests = of_type(self.requests, GenerateRequest)
        return medoid([caption for _, request in requests for caption in request.references])

    @cached_property
    def _people(self) -> Mapping[str, float]:
        asked = [request for _, request in of_type(self.requests, GenerateRequest) if len(request.references) > 1]
        if not asked:
            return {}
        others = [replace(request, references=request.references[1:]) for request in asked]
        found = self.figures(others, [request.references[0] for request in asked])
        name = "people's {}, one caption against the others"
        return {name.format(figure.name): _value(figure) for figure in found}


def counted(name: str, captions: TokenizedCaptions) -> list[Figure]:
    """A metric that counts tokens; BLEU is four figures, the headline of which is BLEU-4."""
    if name == "CIDEr":
        return [Figure(name, cider(captions), best=10.0)]
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
