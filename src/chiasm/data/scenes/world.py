"""The ground truth of a scene, and how one is made up from a key.

A scene lies on a grid of 64 by 64 units, whatever the size in pixels at which it is drawn."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from chiasm.data.scenes.looks import Look
from chiasm.data.scenes.placement import Corners, Pair, extent, place
from chiasm.data.scenes.rng import Rng
from chiasm.data.scenes.vocabulary import COLOURS_ON, CONTAINERS, DIGITS, HOLLOW, SIZES, Background, Laws
from chiasm.errors import RecipeError

Only = Literal["all", "seen", "held_out"]

_GROUPED = 0.5  # share of scenes with a group of shapes that are alike
_LARGEST_GROUP = 4
_WRITTEN = 0.25  # share of scenes with something written
_DIGIT = 0.35  # share of digits among what is written
_INSIDE, _OVERLAPPING = 0.9, 0.35  # how often two things that can stand so do
_TRIES = 1000
_THROWS = 8  # of a scene's sizes and positions before a pair that finds no room comes apart
_ANY = Look()


@dataclass(frozen=True, slots=True)
class Thing:
    """A thing in a scene. corners: (x0, y0, x1, y1) of the box that it touches on all sides, in units of the grid."""

    look: Look
    corners: Corners


@dataclass(frozen=True, slots=True)
class Group:
    """Shapes that were made alike on purpose. number: how many. likeness: the attributes that they share."""

    number: int
    likeness: Look


@dataclass(frozen=True, slots=True)
class Scene:
    """The ground truth of a picture.

    things: in the order in which they are drawn, later ones over earlier ones.
    inside, overlapping: (i, j) where thing i stands inside of, or partly over, thing j. All other things keep apart.
    background, tone, shift: the kind of background, its colour, and where in its pattern the picture begins, in units.
    group: set in about half of the scenes; its number is uniform from 1 to 4, or to the number of shapes.
    """

    things: tuple[Thing, ...]
    inside: tuple[int, int] | None
    overlapping: tuple[int, int] | None
    background: Background
    tone: str
    shift: tuple[int, int]
    group: Group | None


@dataclass(frozen=True)
class Rules:
    """The rules for what scenes may hold.

    objects: the fewest and the most things in a scene. held_out: combinations of attributes; with only="seen" no
    thing has one, with only="held_out" at least one thing in each scene has one.
    """

    laws: Laws
    objects: tuple[int, int]
    held_out: tuple[Look, ...]
    only: Only
    backgrounds: tuple[Background, ...]

    def may_mention(self, description: Look) -> bool:
        """Whether a text may name this, truly or not: a seen split must not even deny what is held out."""
        return self.only != "seen" or not any(description.fits(combination) for combination in self.held_out)

    def chance_of(self, likeness: Look) -> float:
        """The probability that a shape has this form and colour, where they are given."""
        shape = self.laws.shape.probability(likeness.shape) if likeness.shape else 1.0
        return shape * (self.laws.colour.probability(likeness.colour) if likeness.colour else 1.0)


def compose(rng: Rng, rules: Rules) -> Scene:
    """Makes up a scene. Raises RecipeError if the rules hold out everything that the frequencies would show."""
    number = rng.integer(*rules.objects)
    for _ in range(_TRIES):
        scene = _compose(rng, rules, number)
        # sizes are settled last, so combinations that name one are only known now
        withheld = any(thing.look.fits(combination) for thing in scene.things for combination in rules.held_out)
        if rules.only == "all" or withheld == (rules.only == "held_out"):
            return scene
    raise _nothing_left(rules)


def _compose(rng: Rng, rules: Rules, number: int) -> Scene:
    writes = rng.chance(_WRITTEN) and (number > 1 or rules.only != "held_out")
    looks, group = _shapes(rng, rules, number - writes)
    if writes:
        looks.append(_writing(rng, rules.laws))
    looks, pair, boxes = _arrange(rng, looks)
    order = list(range(number))
    if pair is not None:
        order = [i for i in order if i not in (pair.upper, pair.lower)] + [pair.lower, pair.upper]
    last = (number - 1, number - 2)
    allowed = [tone for tone, colours in COLOURS_ON.items() if all(look.colour in colours for look in looks)]
    return Scene(
        things=tuple(Thing(looks[i], boxes[i]) for i in order),
        inside=last if pair is not None and pair.kind == "inside" else None,
        overlapping=last if pair is not None and pair.kind == "overlapping" else None,
        background=rng.choice(rules.backgrounds),
        tone=rng.choice(allowed),
        shift=(rng.integer(0, 63), rng.integer(0, 63)),
        group=group,
    )


def _shapes(rng: Rng, rules: Rules, number: int) -> tuple[list[Look], Group | None]:
    """Looks of shapes, drawn one by one from the laws; those of a group share attributes of the first."""
    looks: list[Look] = []
    if number and rules.only == "held_out":
        looks.append(_look(rng, rules, rng.choice(rules.held_out)))
    elif number:
        looks.append(_look(rng, rules))
    group = None
    if number and rng.chance(_GROUPED):
        shared = rng.choice((("colour", "shape"), ("shape",), ("colour",)))
        likeness = Look(**{kind: getattr(looks[0], kind) for kind in shared})
        group = Group(rng.integer(1, min(number, _LARGEST_GROUP)), likeness)
        looks += [_look(rng, rules, likeness) for _ in range(group.number - 1)]
    looks += [_look(rng, rules) for _ in range(number - len(looks))]
    return looks, group


def _look(rng: Rng, rules: Rules, given: Look = _ANY) -> Look:
    """A look from the laws, where it is not given, and not held out if only seen ones are asked for."""
    laws = rules.laws
    for _ in range(_TRIES):
        shape = given.shape or laws.shape.draw(rng)
        colour = given.colour or laws.colour.draw(rng)
        texture = "plain" if shape in HOLLOW else given.texture or laws.texture.draw(rng)
        size = given.size or rng.choice(SIZES)
        look = Look(size, colour, texture, shape)
        if look.fits(given) and rules.may_mention(look):
            return look
    raise _nothing_left(rules)


def _nothing_left(rules: Rules) -> RecipeError:
    names = ", ".join(" ".join(filter(None, combination)) for combination in rules.held_out)
    return RecipeError(
        f"scenes: {_TRIES} tries made no scene with only: {rules.only} where {names} are held out; "
        "hold out less, or give what is to be shown a higher frequency"
    )


def _writing(rng: Rng, laws: Laws) -> Look:
    colour = laws.colour.draw(rng)
    if rng.chance(_DIGIT):
        return Look(colour=colour, shape="digit", text=rng.choice(DIGITS))
    return Look(colour=colour, shape="word", text=laws.word.draw(rng))


def _arrange(rng: Rng, drawn: list[Look]) -> tuple[list[Look], Pair | None, list[Corners]]:
    """Places all things; where there is no room, large ones become small; at last a pair comes apart."""
    pair = _choose_pair(rng, drawn)
    looks = _sized(drawn, pair)
    attempt = 0
    while True:
        container = pair.lower if pair is not None and pair.kind == "inside" else None
        extents = [extent(rng, look, contains=i == container) for i, look in enumerate(looks)]
        boxes = place(rng, looks, extents, pair)
        if boxes is not None:
            return looks, pair, boxes
        attempt += 1
        large = [i for i, look in enumerate(looks) if look.size == "large" and i != container]
        if pair is not None and attempt > _THROWS:
            pair, looks, attempt = None, list(drawn), 0
        elif large and attempt % 2 == 0:  # another throw may do before anything shrinks
            i = rng.choice(large)
            looks[i] = looks[i]._replace(size="small")


def _sized(looks: list[Look], pair: Pair | None) -> list[Look]:
    """The looks, where one stands inside of another with the sizes that this needs."""
    looks = list(looks)
    if pair is not None and pair.kind == "inside":
        looks[pair.upper] = looks[pair.upper]._replace(size="small")
        looks[pair.lower] = looks[pair.lower]._replace(size="large")
    return looks


def _choose_pair(rng: Rng, looks: list[Look]) -> Pair | None:
    """Two shapes of different colours, each the only one of its look, that will meet."""
    counts = Counter(look[1:] for look in looks)
    single = [i for i, look in enumerate(looks) if not look.text and counts[look[1:]] == 1]
    containers = [i for i in single if looks[i].shape in CONTAINERS and looks[i].texture == "plain"]
    if containers and rng.chance(_INSIDE):
        lower, kind = rng.choice(containers), "inside"
    elif single and rng.chance(_OVERLAPPING):
        lower, kind = rng.choice(single), "overlapping"
    else:
        return None
    others = [i for i in single if looks[i].colour != looks[lower].colour]
    if not others:
        return None
    return Pair("inside" if kind == "inside" else "overlapping", rng.choice(others), lower)
