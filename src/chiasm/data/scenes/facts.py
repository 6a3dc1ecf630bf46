"""Facts of a scene that are beyond doubt: how many things fit a description, where each stands, how to name it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from chiasm.data.scenes.looks import Look
from chiasm.data.scenes.placement import GRID
from chiasm.data.scenes.rng import Rng
from chiasm.data.scenes.world import Rules, Scene

Relation = Literal["left of", "right of", "above", "below", "inside", "outside", "overlapping", "apart from",
                   "bigger than", "smaller than"]  # fmt: skip
Axis = Literal["left to right", "top to bottom"]

OPPOSITE: dict[Relation, Relation] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "inside": "outside",
    "outside": "inside",
    "overlapping": "apart from",
    "apart from": "overlapping",
    "bigger than": "smaller than",
    "smaller than": "bigger than",
}
MIRRORED = frozenset({"left of", "right of", "above", "below", "bigger than", "smaller than"})  # swap with their sides

_MIDDLE = 9  # units from the centre within which a thing stands neither left nor right, neither high nor low
_STEP = 7  # units between neighbours that are listed in order


@dataclass(frozen=True, slots=True)
class Related:
    """Thing `subject` stands in a relation to thing `object`; both are indices into the scene's things."""

    relation: Relation
    subject: int
    object: int


class Facts:
    """A scene as language needs it, and the rules that made it.

    looks: of each thing. centres: of each thing, in units. shapes: the things that are not written.
    single: the things that look like no other.
    sides: each pair that stands clearly left and right, or above and below, once.
    """

    __slots__ = ("_counts", "centres", "looks", "rules", "scene", "shapes", "sides", "single")

    def __init__(self, scene: Scene, rules: Rules) -> None:
        self.scene, self.rules = scene, rules
        self.looks = [thing.look for thing in scene.things]
        self.shapes = [i for i, look in enumerate(self.looks) if not look.text]
        self.centres = [((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in (t.corners for t in scene.things)]
        self._counts = _counts(self.looks)
        self.single = [i for i, look in enumerate(self.looks) if self._counts[look] == 1]
        self.sides = [found for i in self.single for j in self.single if (found := self._side(i, j)) is not None]

    def count(self, description: Look) -> int:
        """How many things fit a description; one that leaves the shape open fits shapes only."""
        return self._counts.get(description, 0)

    def _side(self, i: int, j: int) -> Related | None:
        """The relation of thing i to thing j, if it is clearly left of it or above it, further than the other way."""
        corners, other = self.scene.things[i].corners, self.scene.things[j].corners
        (x, y), (other_x, other_y) = self.centres[i], self.centres[j]
        if corners[2] <= other[0] and other_x - x >= abs(other_y - y):
            return Related("left of", i, j)
        if corners[3] <= other[1] and other_y - y >= abs(other_x - x):
            return Related("above", i, j)
        return None

    def name(self, rng: Rng, i: int, sized: bool = True) -> Look | None:
        """A description that fits thing i alone, the shorter the likelier; None if it is one of several alike.

        sized: whether the size may help to tell it from others.
        """
        look = self.looks[i]
        if look.text:
            return look._replace(colour="")
        size, colour, texture, shape, _ = look
        options = [Look("", colour, "", shape), Look("", "", "", shape)]
        if rng.chance(0.3):
            options.reverse()
        options += [Look("", colour, texture, shape), Look("", "", texture, shape)]
        if sized:
            options += [Look(size, colour, "", shape), look]
        return next((option for option in options if self._counts.get(option) == 1), None)

    def bystanders(self) -> list[int]:
        """Shapes that keep apart from a pair that meets, but by their looks might just as well be its upper one."""
        pair = self.scene.inside or self.scene.overlapping
        if pair is None:
            return []
        taken = self.looks[pair[1]].colour
        found = [i for i in self.shapes if i not in pair and self.looks[i].colour != taken]
        if self.scene.inside:
            found = [i for i in found if self.looks[i].size == "small"]
        return [i for i in found if self._counts[self.looks[i]._replace(size="")] == 1]

    def sizeable(self) -> list[int]:
        """Shapes whose size may be talked of: not a container, which is always large, nor what is inside of it."""
        return [i for i in self.shapes if self.scene.inside is None or i not in self.scene.inside]

    def column(self, i: int) -> str:
        """The column of thing i: "left", "right", or "" near the middle."""
        x = self.centres[i][0] - GRID / 2
        return "left" if x <= -_MIDDLE else "right" if x >= _MIDDLE else ""

    def row(self, i: int) -> str:
        """The row of thing i: "top", "bottom", or "" near the middle."""
        y = self.centres[i][1] - GRID / 2
        return "top" if y <= -_MIDDLE else "bottom" if y >= _MIDDLE else ""

    def place(self, i: int) -> str:
        """Where in the picture thing i is: "on the left", "at the top", "in the bottom left", "in the middle"."""
        column, row = self.column(i), self.row(i)
        if column and row:
            return f"in the {row} {column}"
        return f"on the {column}" if column else f"at the {row}" if row else "in the middle"

    def sequence(self, axis: Axis) -> list[int]:
        """Things in order along an axis, each clearly after the one before it."""
        along = 0 if axis == "left to right" else 1
        spaced: list[int] = []
        for i in sorted(self.single, key=lambda i: self.centres[i][along]):
            if not spaced or self.centres[i][along] - self.centres[spaced[-1]][along] >= _STEP:
                spaced.append(i)
        return spaced


def _counts(looks: list[Look]) -> dict[tuple[str, ...], int]:
    """How many things fit each description that fits any."""
    counts: dict[tuple[str, ...], int] = {}
    for look in looks:
        size, colour, texture, shape, text = look
        if text:
            fitting = [look, ("", "", "", shape, text)]
        else:  # plain tuples equal Looks and are made faster
            pairs = ((texture, shape), (texture, ""), ("", shape), ("", ""))
            fitting = [(s, c, t, n, "") for s in (size, "") for c in (colour, "") for t, n in pairs]
        for description in fitting:
            counts[description] = counts.get(description, 0) + 1
    return counts
