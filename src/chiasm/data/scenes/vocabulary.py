"""The words of the world and how often each is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from chiasm.config import suggest
from chiasm.data.scenes.rng import Law
from chiasm.errors import RecipeError

RGB = tuple[int, int, int]

# The eleven basic colour terms of Berlin and Kay (1969), far apart in RGB. The order is the rank under Zipf's law.
COLOURS: dict[str, RGB] = {
    "red": (214, 38, 40),
    "blue": (34, 88, 214),
    "green": (40, 156, 62),
    "yellow": (250, 214, 28),
    "black": (24, 24, 28),
    "white": (255, 255, 255),
    "orange": (248, 132, 16),
    "purple": (124, 46, 170),
    "brown": (122, 74, 38),
    "pink": (250, 142, 192),
    "grey": (128, 130, 134),
}

# Width over height of each shape. The order is the rank under Zipf's law.
SHAPES: dict[str, float] = {
    "circle": 1.0,
    "square": 1.0,
    "star": 1.0,
    "triangle": 1.1,
    "heart": 1.05,
    "ring": 1.0,
    "cross": 1.0,
    "rectangle": 1.9,
    "diamond": 0.8,
    "arrow": 1.3,
    "oval": 1.5,
    "moon": 0.8,
    "house": 1.0,
    "tree": 0.75,
    "flower": 1.0,
    "hexagon": 1.15,
    "drop": 0.72,
    "cloud": 1.5,
    "frame": 1.0,
    "crown": 1.25,
}
HOLLOW = ("ring", "frame")  # too thin for a texture to show; something may stand in their middle
CONTAINERS = (*HOLLOW, "circle", "square")

TEXTURES = ("plain", "striped", "dotted", "checkered")
SIZES = ("small", "large")

Background = Literal["plain", "gradient", "grid", "grain", "clutter"]

# Colours of backgrounds: neutral, so that none passes for the colour of a thing.
TONES: dict[str, RGB] = {
    "paper": (246, 242, 233),
    "mist": (222, 227, 233),
    "stone": (196, 196, 190),
    "slate": (88, 94, 106),
    "night": (42, 46, 58),
}
_CONTRAST = 75  # distance in RGB that keeps a thing apart from its background; stone has it to every colour
COLOURS_ON: dict[str, frozenset[str]] = {
    tone: frozenset(name for name, colour in COLOURS.items() if math.dist(colour, ground) >= _CONTRAST)
    for tone, ground in TONES.items()
}

# Three or four letters, neither shapes nor colours, so that reading is never confused with seeing.
WORDS = (
    "cat", "dog", "sun", "car", "bus", "tea", "hat", "key", "cup", "one", "sea", "egg", "book", "door", "boat",
    "fox", "hand", "road", "snow", "stop", "open", "yes", "hey", "zoo",
)  # fmt: skip
DIGITS = tuple("0123456789")

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
_PLURALS = {"cross": "crosses"}


def plural(shape: str) -> str:
    """The plural of a shape's name."""
    return _PLURALS.get(shape, f"{shape}s")


@dataclass(frozen=True)
class Laws:
    """How often each shape, colour, texture and word is shown."""

    shape: Law
    colour: Law
    texture: Law
    word: Law


Frequencies = Literal["uniform", "zipf"] | dict[str, float]


def laws(frequencies: Frequencies) -> Laws:
    """The laws of a recipe.

    frequencies: "uniform"; "zipf", where the concept of rank r within its kind has weight 1/r; or the weights of
    single concepts, such as {"red": 4, "moon": 0}, where each concept that is not named has weight 1.
    Raises RecipeError for an unknown concept, for a negative weight and where a kind would have no concept left.
    """
    kinds = {"shape": tuple(SHAPES), "colour": tuple(COLOURS), "texture": TEXTURES, "word": WORDS}
    if isinstance(frequencies, Mapping):
        known = [name for names in kinds.values() for name in names]
        for name, weight in frequencies.items():
            if name not in known:
                raise RecipeError(f"frequencies: there is no concept '{name}' in scenes{suggest(name, known)}")
            if not 0 <= weight < float("inf"):
                raise RecipeError(f"frequencies.{name}: a weight must be zero or a positive number, not {weight}")
    made = {}
    for kind, names in kinds.items():
        weights = {name: _weight(frequencies, name, rank) for rank, name in enumerate(names, start=1)}
        if not any(weights.values()):
            raise RecipeError(f"frequencies: every {kind} has weight 0; leave at least one")
        made[kind] = Law(weights)
    return Laws(**made)


def _weight(frequencies: Frequencies, name: str, rank: int) -> float:
    if isinstance(frequencies, Mapping):
        return frequencies.get(name, 1.0)
    return 1.0 / rank if frequencies == "zipf" else 1.0
