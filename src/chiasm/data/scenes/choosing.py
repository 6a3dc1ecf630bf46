"""Which claims to make about a scene: true ones, drawn such that their words do not tell that they are true."""

from __future__ import annotations

from chiasm.data.scenes.claims import WORDINGS, Both, Counts, Exists, Lacks, Located, Ordered, Relates
from chiasm.data.scenes.facts import MIRRORED, OPPOSITE, Axis, Facts, Related
from chiasm.data.scenes.looks import Look
from chiasm.data.scenes.rng import Rng
from chiasm.data.scenes.vocabulary import HOLLOW, SIZES

AXES: tuple[Axis, ...] = ("left to right", "top to bottom")
_TRIES = 8
_MENTIONED = (("colour",), ("colour",), ("size", "colour"), ("texture",), ("colour", "texture"), ("size", "texture"))


def wording(rng: Rng) -> int:
    """A random one of the wordings of a claim, as its number."""
    return rng.integer(0, WORDINGS - 1)


def exists(facts: Facts, rng: Rng) -> Exists | None:
    """A claim that a shape of some attributes exists. Sizes are named only where both are shown, each equally often."""
    kinds = rng.choice(_MENTIONED)
    able = facts.shapes
    if "texture" in kinds:  # hollow shapes are always plain: to say so would tell that the text is true
        able = [i for i in able if facts.looks[i].shape not in HOLLOW]
    sizeable = [i for i in facts.sizeable() if i in able]
    if "size" in kinds and len({facts.looks[i].size for i in sizeable}) == 2:
        wanted = rng.choice(SIZES)
        able = [i for i in sizeable if facts.looks[i].size == wanted]
    else:
        kinds = tuple(kind for kind in kinds if kind != "size")
    if not able:
        return None
    look = facts.looks[rng.choice(able)]
    return Exists(
        Look(
            look.size if "size" in kinds else "",
            look.colour if "colour" in kinds else "",
            look.texture if "texture" in kinds else "",
            look.shape,
        ),
        wording(rng),
    )


def located(facts: Facts, rng: Rng) -> Located | None:
    """A claim about where in the picture one thing is."""
    i = rng.integer(0, len(facts.looks) - 1)
    name = facts.name(rng, i)
    return None if name is None else Located(name, facts.place(i), wording(rng))


def both(facts: Facts, rng: Rng) -> Both | None:
    """A claim about two shapes by one attribute each, if possible such that swapping the attributes makes it false."""
    if len(facts.shapes) < 2:
        return None
    kind = rng.choice(("colour", "colour", "texture", "size"))
    able = facts.sizeable() if kind == "size" else facts.shapes
    if kind == "texture":
        able = [i for i in able if facts.looks[i].shape not in HOLLOW]
    pairs = [(i, j) for i in able for j in able if i != j]
    form, claim = wording(rng), None
    for i, j in rng.sample(pairs, _TRIES):
        first, other = _by(facts.looks[i], kind), _by(facts.looks[j], kind)
        if differ(first, other):
            claim = Both(first, other, form)
            if swapped(claim, facts) is not None:
                break
    return claim


def _by(look: Look, kind: str) -> Look:
    if kind == "colour":
        return Look(colour=look.colour, shape=look.shape)
    return Look(texture=look.texture, shape=look.shape) if kind == "texture" else Look(size=look.size, shape=look.shape)


def differ(first: Look, other: Look) -> bool:
    """Whether two descriptions have nothing in common but what neither names."""
    return not any(mine and mine == theirs for mine, theirs in zip(first, other, strict=True))


def swapped(claim: Both, facts: Facts) -> Both | None:
    """The claim with its attributes exchanged; None where it would still be true."""
    first = claim.second._replace(shape=claim.first.shape)
    other = claim.first._replace(shape=claim.second.shape)
    if facts.count(first) and facts.count(other):
        return None
    if not (facts.rules.may_mention(first) and facts.rules.may_mention(other)):
        return None
    return Both(first, other, claim.wording)


def relates(facts: Facts, rng: Rng) -> Relates | None:
    """A claim about two things: how they stand to each other, or which is bigger."""
    related = meeting(facts, rng) if rng.chance(0.6) else None
    if related is None and rng.chance(0.25):
        related = compared(facts, rng)
    if related is None and facts.sides:
        related = rng.choice(facts.sides)
    if related is None:
        return None
    related = turned(related, rng)
    sized = related.relation not in ("inside", "outside", "bigger than", "smaller than")
    subject, other = facts.name(rng, related.subject, sized), facts.name(rng, related.object, sized)
    return Relates(related.relation, subject, other, wording(rng)) if subject and other else None


def meeting(facts: Facts, rng: Rng) -> Related | None:
    """A claim about what is inside or overlaps; or, half of the time where possible, about what is outside or apart."""
    pair = facts.scene.inside or facts.scene.overlapping
    if pair is None:
        return None
    upper, lower = pair
    others = facts.bystanders()
    if others and rng.chance(0.5):
        return Related("outside" if facts.scene.inside else "apart from", rng.choice(others), lower)
    return Related("inside" if facts.scene.inside else "overlapping", upper, lower)


def compared(facts: Facts, rng: Rng) -> Related | None:
    """A claim that compares a large shape with a small one."""
    single = [i for i in facts.sizeable() if i in facts.single]
    large = [i for i in single if facts.looks[i].size == "large"]
    small = [i for i in single if facts.looks[i].size == "small"]
    return Related("bigger than", rng.choice(large), rng.choice(small)) if large and small else None


def counts(facts: Facts, rng: Rng) -> Counts | None:
    """A claim about how many shapes are alike, or there are; every number of the range is equally likely."""
    group, total = facts.scene.group, len(facts.shapes)
    if group is not None:
        match = facts.rules.chance_of(group.likeness)
        # A small group leaves more shapes that match it by chance, and is lost then; so large ones are thinned out
        if facts.count(group.likeness) == group.number and rng.chance((1 - match) ** group.number):
            high = min(total, 4)
            return Counts(group.number, group.likeness, 1, high, wording(rng)) if high > 1 else None
        return None
    low, high = facts.rules.objects
    if total < len(facts.looks) or low == high:
        return None
    return Counts(total, Look(), low, high, wording(rng))


def ordered(facts: Facts, rng: Rng) -> Ordered | None:
    """A claim about three things in order along an axis."""
    axis = rng.choice(AXES)
    sequence = facts.sequence(axis)
    if len(sequence) < 3:
        return None
    first = rng.integer(0, len(sequence) - 3)
    names = [facts.name(rng, i) for i in sequence[first : first + 3]]
    things = tuple(name for name in names if name is not None)
    return Ordered(axis, things, rng.integer(0, 1)) if len(things) == 3 else None


def lacks(facts: Facts, rng: Rng) -> Lacks | None:
    """A claim about what is not there: a shape, or a shape in a colour."""
    missing = absent(facts, rng, coloured=rng.chance(0.4))
    if missing is None:
        return None
    shape = facts.looks[rng.choice(facts.shapes)] if facts.shapes and rng.chance(0.7) else None
    present = None if shape is None else Look(colour=shape.colour, shape=shape.shape)
    return Lacks(present, missing, wording(rng))


def absent(facts: Facts, rng: Rng, coloured: bool) -> Look | None:
    """A description that fits nothing in the scene."""
    for _ in range(_TRIES):
        colour = facts.rules.laws.colour.draw(rng) if coloured else ""
        description = Look(colour=colour, shape=facts.rules.laws.shape.draw(rng))
        if not facts.count(description) and facts.rules.may_mention(description):
            return description
    return None


def turned(related: Related, rng: Rng) -> Related:
    """The same fact, or its mirror image half of the time: a is left of b, b is right of a."""
    if related.relation not in MIRRORED or rng.chance(0.5):
        return related
    return Related(OPPOSITE[related.relation], related.object, related.subject)
