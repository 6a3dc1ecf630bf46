"""What a thing looks like, and descriptions that fit some looks and not others."""

from __future__ import annotations

from typing import NamedTuple

from chiasm.config import suggest
from chiasm.data.scenes.vocabulary import COLOURS, HOLLOW, SHAPES, SIZES, TEXTURES
from chiasm.errors import RecipeError


class Look(NamedTuple):
    """What a thing looks like; or a description, where "" stands for any.

    size: "small" or "large", "" for what is written. shape: a name of SHAPES, "word" or "digit". text: what is
    written, "" for shapes. A description without a shape and a text fits shapes only.
    """

    size: str = ""
    colour: str = ""
    texture: str = ""
    shape: str = ""
    text: str = ""

    def fits(self, description: Look) -> bool:
        """Whether every attribute that the description names is this look's own."""
        return all(wanted in ("", own) for wanted, own in zip(description, self, strict=True)) and (
            bool(description.text) == bool(self.text)
        )


def combination(words: str) -> Look:
    """The description that words such as "red circle" or "large striped star" stand for.

    Raises RecipeError unless they name at least two attributes of different kinds that one shape can have.
    """
    kinds = {"size": SIZES, "colour": tuple(COLOURS), "texture": TEXTURES, "shape": tuple(SHAPES)}
    named: dict[str, str] = {}
    for word in words.split():
        kind = next((kind for kind, names in kinds.items() if word in names), None)
        if kind is None:
            known = [name for names in kinds.values() for name in names]
            raise RecipeError(f"held_out: '{word}' in '{words}' is not an attribute{suggest(word, known)}")
        if kind in named:
            raise RecipeError(f"held_out: '{words}' names two {kind}s, which no shape has; name one")
        named[kind] = word
    if named.get("shape") in HOLLOW and named.get("texture", "plain") != "plain":
        raise RecipeError(f"held_out: '{words}' never occurs; a {named['shape']} is always plain")
    if len(named) < 2:
        raise RecipeError(f"held_out: '{words}' is not a combination; name two attributes, such as 'red circle'")
    return Look(**named)
