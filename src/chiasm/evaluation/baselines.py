"""The blind and shuffled baselines: the same requests, altered so that the image cannot help."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np

from chiasm.evaluation.request import GREY, Request, image_key

Baseline = Literal["constant", "blind", "shuffled"]
BASELINES: tuple[Baseline, ...] = ("constant", "blind", "shuffled")
T = TypeVar("T")


def blind(requests: Sequence[Request]) -> list[Request]:
    """Every image replaced by one grey square of 224 pixels, so that what is left is what the texts give away.

    Where an image is to be made, the text that it follows is empty instead.
    """
    return [request.altered(lambda _: GREY, lambda _: "") for request in requests]


def shuffled(requests: Sequence[Request], seed: int = 0) -> list[Request] | None:
    """Every image (where one is to be made, every text) replaced by another of the same requests, each by exactly one.

    The exchange is one random cycle through all of them (Sattolo 1986), so none stays where it is.
    None if there are not two of either.
    """
    images = {image_key(image): image for request in requests for image in request.all_images}
    prompts = {text: text for request in requests for text in request.prompts}
    if len(images) < 2 and len(prompts) < 2:
        return None
    image, prompt = _exchange(images, image_key, seed), _exchange(prompts, str, seed)
    return [request.altered(image, prompt) for request in requests]


def _exchange(values: Mapping[str, T], key: Callable[[T], str], seed: int) -> Callable[[T], T]:
    """Gives for each value the next one in a random cycle through all."""
    keys = list(values)
    cycle = np.random.default_rng(seed).permutation(len(keys)).tolist()
    after = {keys[cycle[at - 1]]: values[keys[source]] for at, source in enumerate(cycle)}
    return lambda value: after[key(value)]
