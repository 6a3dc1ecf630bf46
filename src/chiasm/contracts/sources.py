"""What every source promises: samples by index, and an order that follows from seed and position alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from chiasm.contracts.contract import Trial, instance, require
from chiasm.data.image import Image
from chiasm.data.sample import Sample
from chiasm.data.source import Source

BASE = Source

_SOME = 16  # samples that are looked at


def gives_samples(trial: Trial[type[Source]]) -> None:
    """It has samples, by indices from 0: each with a key of its own, and pictures that can be decoded."""
    source = instance(trial)
    require(len(source) > 0, "its example has no samples")
    keys: dict[str, int] = {}
    for index, sample in enumerate(islice(source, _SOME)):
        require(isinstance(sample, Sample), f"source[{index}] is a {type(sample).__name__}, not a Sample")
        require(
            sample.key not in keys, f"source[{index}] and source[{keys.get(sample.key)}] share the key '{sample.key}'"
        )
        keys[sample.key] = index
        for part in sample.parts:
            if isinstance(part, Image):
                part.decode()


def gives_the_same_sample_again(trial: Trial[type[Source]]) -> None:
    """The same index gives the same sample, in any order and from a second source of the same entries."""
    first, second = instance(trial), instance(trial)
    for index in reversed(range(min(len(first), _SOME))):
        for other in (first[index], second[index]):
            require(_content(first[index]) == _content(other), f"source[{index}] is not the same each time")


def its_order_follows_from_seed_and_position(trial: Trial[type[Source]]) -> None:
    """Its training order follows from the seed and the position alone, so that a run resumes exactly.

    Every sample comes once an epoch, but for sources with an order of their own, such as a weighted mixture.
    """
    source, again = instance(trial), instance(trial)
    count, own_order = len(source), trial.subject.at is not Source.at
    for seed in (0, 1):
        for epoch in (0, 1):
            positions = range(epoch * count, (epoch + 1) * count)
            order = [source.at(position, seed) for position in positions]
            require(all(0 <= index < count for index in order), f"at() gives indices outside of 0 to {count - 1}")
            once = sorted(order) == list(range(count))
            require(once or own_order, f"epoch {epoch} of seed {seed} is not every sample once")
            backwards = [again.at(position, seed) for position in reversed(positions)]
            require(backwards[::-1] == order, "at(position, seed) depends on what was asked before")


def _content(sample: Sample) -> tuple[object, ...]:
    """All that a sample holds, its pictures as pixels."""
    parts = [part.decode().tobytes() if isinstance(part, Image) else part for part in sample.parts]
    return replace(sample, parts=()), parts
