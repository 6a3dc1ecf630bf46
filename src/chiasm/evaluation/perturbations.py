"""Captions with their words in another order: the perturbations of ARO (Yuksekgonul et al. 2023, arXiv:2210.01936)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

Perturb = Callable[[np.random.Generator], list[str]]

_NOUNS = ("NN", "NNS", "NNP", "NNPS")  # Penn Treebank tags, as the official code takes them
_ADJECTIVES = ("JJ", "JJR", "JJS")
_MARKS = re.compile(r"[.!\"()*#:;~,?]")


def words_of(caption: str, most: int = 30) -> list[str]:
    """The words of a caption, lower-cased, without punctuation; the first `most`, as in the official evaluation."""
    return _MARKS.sub(" ", caption.lower()).split()[:most]


def nouns_and_adjectives(words: Sequence[str], tags: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Nouns are exchanged with nouns, adjectives with adjectives."""
    nouns = [at for at, tag in enumerate(tags) if tag in _NOUNS]
    adjectives = [at for at, tag in enumerate(tags) if tag in _ADJECTIVES]
    return _exchanged(_exchanged(words, nouns, rng), adjectives, rng)


def all_but_nouns_and_adjectives(words: Sequence[str], tags: Sequence[str], rng: np.random.Generator) -> list[str]:
    """All other words are permuted; nouns and adjectives stay."""
    return _exchanged(words, [at for at, tag in enumerate(tags) if tag not in _NOUNS + _ADJECTIVES], rng)


def trigrams(words: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Groups of three words are permuted; within each the order stays."""
    groups = _groups(words)
    return [word for at in rng.permutation(len(groups)).tolist() for word in groups[at]]


def within_trigrams(words: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Words are permuted within each group of three."""
    return [group[at] for group in _groups(words) for at in rng.permutation(len(group)).tolist()]


def perturbations(words: Sequence[str], tags: Sequence[str] | None) -> list[Perturb]:
    """All four reorderings of these words, or the two that need no tags."""
    untagged: list[Perturb] = [partial(within_trigrams, words), partial(trigrams, words)]
    if tags is None:
        return untagged
    return [partial(nouns_and_adjectives, words, tags), partial(all_but_nouns_and_adjectives, words, tags), *untagged]


def _exchanged(words: Sequence[str], positions: Sequence[int], rng: np.random.Generator) -> list[str]:
    found = list(words)
    for at, other in zip(positions, rng.permutation(positions).tolist() if positions else [], strict=True):
        found[at] = words[other]
    return found


def _groups(words: Sequence[str]) -> list[list[str]]:
    return [list(words[at : at + 3]) for at in range(0, len(words), 3)]
