"""What a short caption can claim, as data: the same claim with one word changed is a negative in the same words."""

from __future__ import annotations

from dataclasses import dataclass

from chiasm.data.scenes.facts import Axis, Relation
from chiasm.data.scenes.looks import Look
from chiasm.data.scenes.phrases import listed, noun, number_of, some

WORDINGS = 3  # ways to say each claim


@dataclass(frozen=True, slots=True)
class Exists:
    """At least one thing fits the description."""

    thing: Look
    wording: int

    @property
    def text(self) -> str:
        return ("", "there is ", "a picture of ")[self.wording] + some(self.thing)


@dataclass(frozen=True, slots=True)
class Located:
    """The only thing of the description is at a place of the picture, such as "on the left"."""

    thing: Look
    place: str
    wording: int

    @property
    def text(self) -> str:
        link = ("", "is ", "that is ")[self.wording]
        return f"{some(self.thing)} {link}{self.place}"


@dataclass(frozen=True, slots=True)
class Both:
    """Something fits the first description, and something the second."""

    first: Look
    second: Look
    wording: int

    @property
    def text(self) -> str:
        if self.wording == 2:
            return f"{some(self.first)} with {some(self.second)}"
        return f"{'there is ' if self.wording else ''}{some(self.first)} and {some(self.second)}"


@dataclass(frozen=True, slots=True)
class Relates:
    """The only thing of the first description stands in a relation to the only one of the second."""

    relation: Relation
    subject: Look
    object: Look
    wording: int

    @property
    def text(self) -> str:
        link = ("", "is ", "that is ")[self.wording]
        return f"{some(self.subject)} {link}{self.relation} {some(self.object)}"


@dataclass(frozen=True, slots=True)
class Counts:
    """Exactly so many shapes fit the description, out of a range of numbers that were equally likely."""

    number: int
    things: Look
    low: int
    high: int
    wording: int

    @property
    def text(self) -> str:
        counted = number_of(self.number, self.things)
        if self.wording == 1:
            return f"there {'is' if self.number == 1 else 'are'} {counted}"
        return f"a picture with {counted}" if self.wording else counted


@dataclass(frozen=True, slots=True)
class Ordered:
    """The things stand in this order along an axis."""

    axis: Axis
    things: tuple[Look, ...]
    wording: int

    @property
    def text(self) -> str:
        order = listed([some(thing) for thing in self.things])
        return f"{order}, from {self.axis}" if self.wording else f"from {self.axis}: {order}"


@dataclass(frozen=True, slots=True)
class Lacks:
    """Nothing fits the second description; something fits the first, where it is given."""

    present: Look | None
    absent: Look
    wording: int

    @property
    def text(self) -> str:
        if self.wording == 2:
            return f"{'a picture' if self.present is None else some(self.present)} without {some(self.absent)}"
        if self.present is not None:
            return f"{some(self.present)} {('but', 'and')[self.wording]} no {noun(self.absent)}"
        return f"{('there is ', '')[self.wording]}no {noun(self.absent)}"


Claim = Exists | Located | Both | Relates | Counts | Ordered | Lacks
