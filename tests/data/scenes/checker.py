"""An independent reader of what the scenes say: its own words, its own grammar, its own geometry.

It shares nothing with the code that writes the texts but the ground truth: the looks of the things and their boxes.
It judges with three values. True and False mean beyond doubt; None means that one could argue, which no text of
chiasm may leave open. A text that it cannot parse raises ValueError.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from itertools import pairwise

from chiasm.data.scenes.world import Scene, Thing

Verdict = bool | None

SIZES = ["small", "large"]
COLOURS = ["red", "blue", "green", "yellow", "black", "white", "orange", "purple", "brown", "pink", "grey"]
TEXTURES = ["plain", "striped", "dotted", "checkered"]
# fmt: off
SHAPES = [
    "circle", "square", "star", "triangle", "heart", "ring", "cross", "rectangle", "diamond", "arrow", "oval", "moon",
    "house", "tree", "flower", "hexagon", "drop", "cloud", "frame", "crown",
]
# fmt: on
NUMBERS = {"no": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
RELATIONS = "left of|right of|above|below|inside|outside|overlapping|apart from|bigger than|smaller than"

_ADJECTIVES = "|".join([*SIZES, *COLOURS, *TEXTURES])
_NOUNS = "|".join([*SHAPES, "shape"])
_WRITTEN = r"the (?:word '[a-z]+'|digit \d)(?: in (?:" + "|".join(COLOURS) + "))?"
_SHAPE = rf"(?:a|an|the|{'|'.join(NUMBERS)})(?: (?:{_ADJECTIVES}))* (?:{_NOUNS})(?:s|es)?"
PHRASE = rf"(?:{_WRITTEN}|{_SHAPE})"
_LIST = rf"{PHRASE}(?:, {PHRASE})*(?: (?:and|with) {PHRASE})?"
_BARE = rf"(?:(?:{_ADJECTIVES}) )*(?:{_NOUNS})"


def judge(text: str, scene: Scene) -> Verdict:
    """Whether a caption or a statement is true of a scene."""
    claim, _, clauses = text.partition("; ")
    verdicts = [_claim(claim, scene)]
    if clauses:
        verdicts += [_claim(clause, scene) for clause in re.split(r" and (?=the )", clauses)]
    return _all(verdicts)


def phrases(text: str) -> list[str]:
    """The phrases that name things, in order."""
    return re.findall(PHRASE, text)


def things_named(phrase: str, scene: Scene) -> list[Thing]:
    """The things that a phrase may mean."""
    return [thing for thing in scene.things if _fits(phrase, thing)]


def number_named(phrase: str) -> int:
    return NUMBERS.get(phrase.split()[0], 1)


def _claim(text: str, scene: Scene) -> Verdict:
    if found := re.fullmatch(rf"from ([a-z ]+): ({_LIST})", text):
        return _ordered(found[1], phrases(found[2]), scene)
    if found := re.fullmatch(rf"({_LIST}), from ([a-z ]+)", text):
        return _ordered(found[2], phrases(found[1]), scene)
    if found := re.fullmatch(rf"(?:there is )?no ({_BARE})|a picture without ({PHRASE})", text):
        return _not(_shown(f"any {found[1]}" if found[1] else found[2], scene))
    if found := re.fullmatch(rf"({PHRASE}) (?:(?:but|and) no ({_BARE})|without ({PHRASE}))", text):
        absent = f"any {found[2]}" if found[2] else found[3]
        return _all([_shown(found[1], scene), _not(_shown(absent, scene))])
    if found := re.fullmatch(rf"({PHRASE}) (?:is |that is )?({RELATIONS}) ({PHRASE})", text):
        return _related(found[1], found[2], found[3], scene)
    if found := re.fullmatch(rf"({PHRASE}) (?:is |that is )?((?:on|at|in) the [a-z ]+)", text):
        return _located(_the(found[1], scene), found[2])
    if found := re.fullmatch(rf"({PHRASE}) is ({_ADJECTIVES})", text):
        look = _the(found[1], scene).look
        return found[2] in (look.size, look.colour, look.texture)
    if found := re.fullmatch(r"the (word|digit) is '?([a-z]+|\d)'?", text):
        return any((thing.look.shape, thing.look.text) == (found[1], found[2]) for thing in scene.things)
    if found := re.fullmatch(rf"(?:a picture (?:of|with) |this is |there (?:is|are) )?({_LIST})", text):
        return _all(_shown(phrase, scene) for phrase in phrases(found[1]))
    raise ValueError(f"the checker cannot parse '{text}'")


def _all(verdicts: Iterable[Verdict]) -> Verdict:
    verdicts = list(verdicts)
    return False if False in verdicts else None if None in verdicts else True


def _not(verdict: Verdict) -> Verdict:
    return None if verdict is None else not verdict


def _fits(phrase: str, thing: Thing) -> bool:
    words, look = phrase.replace("'", "").split(), thing.look
    if words[1] in ("word", "digit"):
        return words[1:3] == [look.shape, look.text] and (len(words) == 3 or words[4] == look.colour)
    if look.shape in ("word", "digit"):
        return False
    *adjectives, noun = words[1:]
    noun = noun if noun in SHAPES or noun == "shape" else "cross" if noun == "crosses" else noun[:-1]
    assert noun == "shape" or noun in SHAPES
    return noun in ("shape", look.shape) and all(one in (look.size, look.colour, look.texture) for one in adjectives)


def _shown(phrase: str, scene: Scene) -> Verdict:
    """ "a" means at least one, a number means exactly so many, and their plurals must agree."""
    count, determiner = len(things_named(phrase, scene)), phrase.split()[0]
    if determiner in NUMBERS:
        many = phrase.endswith("s") and not phrase.endswith("cross")
        assert many == (NUMBERS[determiner] != 1), phrase
        return count == NUMBERS[determiner]
    if determiner == "the":
        return count == 1
    assert determiner == "any" or (determiner == "an") == (phrase.split()[1][0] in "aeio"), phrase
    return count >= 1


def _the(phrase: str, scene: Scene) -> Thing:
    found = things_named(phrase, scene)
    if len(found) != 1:
        raise ValueError(f"'{phrase}' means {len(found)} things")
    return found[0]


def _related(subject: str, relation: str, other: str, scene: Scene) -> Verdict:
    ones, others = things_named(subject, scene), things_named(other, scene)
    for phrase, found in ((subject, ones), (other, others)):
        if phrase.startswith("the ") and "'" not in phrase and "digit" not in phrase and len(found) != 1:
            raise ValueError(f"'{phrase}' means {len(found)} things")
    verdicts = [_stands(one, relation, two) for one in ones for two in others if one is not two]
    return True if True in verdicts else None if None in verdicts else False


def _centre(thing: Thing) -> tuple[float, float]:
    x0, y0, x1, y1 = thing.corners
    return (x0 + x1) / 2, (y0 + y1) / 2


def _area(thing: Thing) -> float:
    x0, y0, x1, y1 = thing.corners
    return (x1 - x0) * (y1 - y0)


def _disjoint(one: Thing, other: Thing) -> bool:
    return not (
        one.corners[0] < other.corners[2]
        and other.corners[0] < one.corners[2]
        and one.corners[1] < other.corners[3]
        and other.corners[1] < one.corners[3]
    )


def _within(one: Thing, other: Thing) -> bool:
    """Whether all of a box lies in the middle of the other thing: in the hole of a ring or a frame."""
    x, y = _centre(other)
    half = (other.corners[2] - other.corners[0]) / 2 * (0.62 if other.look.shape in ("ring", "frame") else 1.0)
    corners = [(one.corners[i] - x, one.corners[j] - y) for i in (0, 2) for j in (1, 3)]
    if other.look.shape in ("ring", "circle"):
        return max(math.hypot(dx, dy) for dx, dy in corners) <= half
    if other.look.shape in ("frame", "square"):
        return max(max(abs(dx), abs(dy)) for dx, dy in corners) <= half
    return False


def _stands(one: Thing, relation: str, other: Thing) -> Verdict:
    (x, y), (other_x, other_y) = _centre(one), _centre(other)
    right, down = other_x - x, other_y - y
    match relation:
        case "left of":
            clear = one.corners[2] <= other.corners[0] and right >= abs(down)
            return True if clear else False if right <= 0 else None
        case "above":
            clear = one.corners[3] <= other.corners[1] and down >= abs(right)
            return True if clear else False if down <= 0 else None
        case "right of":
            return _stands(other, "left of", one)
        case "below":
            return _stands(other, "above", one)
        case "bigger than":
            ratio = _area(one) / _area(other)
            return True if ratio > 1.6 else False if ratio < 1 / 1.6 else None
        case "smaller than":
            return _stands(other, "bigger than", one)
        case "inside":
            return True if _within(one, other) else False if _disjoint(one, other) or _within(other, one) else None
        case "outside":
            return _not(_stands(one, "inside", other))
        case "overlapping":
            if _disjoint(one, other):
                return False
            return None if _within(one, other) or _within(other, one) else True
        case _:  # apart from
            return _disjoint(one, other)


def _located(thing: Thing, place: str) -> Verdict:
    x, y = _centre(thing)
    sides: dict[str, float] = {"left": 32 - x, "right": x - 32, "top": 32 - y, "bottom": y - 32}
    if place == "in the middle":
        return max(abs(x - 32), abs(y - 32)) < 9
    named = [word for word in place.split() if word in sides]
    assert named, place
    return _all(True if sides[one] >= 9 else False if sides[one] <= 0 else None for one in named)


def _ordered(axis: str, told: list[str], scene: Scene) -> Verdict:
    along = {"left to right": 0, "top to bottom": 1}[axis]
    found = [things_named(phrase, scene) for phrase in told]
    if not all(found):
        return False
    if any(len(things) > 1 for things in found):
        return None
    places = [_centre(things[0])[along] for things in found]
    steps = [after - before for before, after in pairwise(places)]
    return True if min(steps) >= 6 else False if min(steps) <= -6 else None
