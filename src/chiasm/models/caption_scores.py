"""How well texts match pictures, by what a generative model says of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from chiasm.data.image import Image
from chiasm.data.sample import Sample, Text

ScoreBy = Literal["likelihood", "gain", "yes"]
SHOWN = (
    'Does this figure show "{}"? Please answer yes or no.'  # VQAScore's question (Lin et al. 2024, arXiv:2404.01291)
)


def shown(image: Image, text: str) -> Sample:
    """The question whether a picture shows a text."""
    return Sample("score", (image, Text(SHOWN.format(text), role="user")))


class CaptionScorer(ABC):
    """Scores texts by their likelihood, by what the picture adds to it, or by asking."""

    scorings: ClassVar[tuple[str, ...]] = get_args(ScoreBy)
    _priors: dict[tuple[tuple[int, int], tuple[str, ...]], Tensor] | None = None

    @abstractmethod
    def caption_likelihoods(self, image: Image, texts: Sequence[str]) -> Tensor:
        """(N,) mean log-likelihood a token of each caption."""

    @abstractmethod
    def yes_over_no(self, image: Image, texts: Sequence[str]) -> Tensor:
        """(N,) log p("Yes") - log p("No") after the question whether the picture shows the text."""

    def score(self, images: Sequence[Image], texts: Sequence[str], *, by: ScoreBy = "likelihood") -> Tensor:
        """(N_images, N_texts), higher matches better.

        by: "likelihood": log p(text | picture) per token; "gain": minus what it is without the picture's content
            (a grey one in its place), so that a text gains nothing by being common; "yes": log p("yes") - log p("no")
            after the question whether the picture shows the text (VQAScore).
        """
        if not images or not texts:
            return torch.empty(len(images), len(texts))
        if by == "yes":
            return torch.stack([self.yes_over_no(image, texts) for image in images])
        found = torch.stack([self.caption_likelihoods(image, texts) for image in images])
        if by == "gain":
            with self.unchanged():
                found = found - torch.stack([self._prior(image, texts) for image in images])
        return found

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Within this no weight changes, so what texts score without a picture is computed once."""
        if self._priors is not None:
            yield
            return
        self._priors = {}
        try:
            yield
        finally:
            self._priors = None

    def _prior(self, image: Image, texts: Sequence[str]) -> Tensor:
        """What the texts score with a grey picture: it depends on no more than its size."""
        assert self._priors is not None
        key = (image.size, tuple(texts))
        if key not in self._priors:
            self._priors[key] = self.caption_likelihoods(grey(*image.size), texts)
        return self._priors[key]


def grey(width: int, height: int) -> Image:
    """A picture of this size, in pixels, without content."""
    return Image(np.full((height, width, 3), 128, np.uint8))
