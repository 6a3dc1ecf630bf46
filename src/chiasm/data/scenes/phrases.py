"""Phrases for looks: "a large red striped circle", "two green stars", "the word 'cat' in red"."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from chiasm.data.scenes.looks import Look
from chiasm.data.scenes.vocabulary import NUMBERS, plural


@cache  # a few thousand descriptions are all there are
def noun(look: Look) -> str:
    """A look without article: "large red striped circle"; "shape" where any shape is meant."""
    if look.text:
        return f"{look.shape} '{look.text}'" if look.shape == "word" else f"{look.shape} {look.text}"
    return " ".join(filter(None, (look.size, look.colour, look.texture, look.shape or "shape")))


@cache
def some(look: Look) -> str:
    """A look with its indefinite article: "a large red circle", "an oval", "the word 'cat' in red"."""
    if look.text:
        return f"the {noun(look)} in {look.colour}" if look.colour else f"the {noun(look)}"
    words = noun(look)
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


@cache
def the(look: Look) -> str:
    """The only thing of a look, with its article: "the large red circle"."""
    return f"the {noun(look)}"


@cache
def plural_noun(look: Look) -> str:
    """A look in the plural: "large red striped circles"."""
    return " ".join(filter(None, (look.size, look.colour, look.texture, plural(look.shape or "shape"))))


def number_of(number: int, look: Look) -> str:
    """So many things of a look: "two green stars", "one green star", "no green stars"."""
    return f"{NUMBERS[number]} {noun(look) if number == 1 else plural_noun(look)}"


def listed(phrases: Sequence[str]) -> str:
    """The phrases as a list: "a, b and c"."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
