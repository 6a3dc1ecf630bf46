"""The same questions, altered so that looking cannot help: what a score must be held against."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np

from chiasm.data.image import Image
from chiasm.evaluation.task import Broken, Request, image_key

Baseline = Literal["constant", "blind", "shuffled"]
BASELINES: tuple[Baseline, ...] = ("constant", "blind", "shuffled")
_GREY = 128


def blind(questions: Sequence[Request]) -> list[Request]:
    """Every picture replaced by one grey square of 224 pixels: what is left is what the texts give away."""
    grey = Image(np.full((224, 224, 3), _GREY, np.uint8))
    return [one if isinstance(one, Broken) else one.with_images(lambda _: grey) for one in questions]


def shuffled(questions: Sequence[Request], seed: int = 0) -> list[Request] | None:
    """Every picture replaced by another of the same questions, each by exactly one; None if there is but one.

    The exchange is one random cycle through all pictures (Sattolo 1986), so none keeps its place.
    """
    pictures = {image_key(image): image for one in questions if not isinstance(one, Broken) for image in one.images}
    if len(pictures) < 2:
        return None
    keys = list(pictures)
    cycle = np.random.default_rng(seed).permutation(len(keys)).tolist()
    other = {keys[at]: pictures[keys[next_]] for at, next_ in zip(cycle, cycle[1:] + cycle[:1], strict=True)}
    return [one if isinstance(one, Broken) else one.with_images(partial(_exchange, other)) for one in questions]


def _exchange(other: dict[str, Image], image: Image) -> Image:
    return other[image_key(image)]
