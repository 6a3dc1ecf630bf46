"""Hard negatives: true claims with one small change that makes them false, in the same words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from chiasm.data.sample import Negative
from chiasm.data.scenes.choosing import swapped
from chiasm.data.scenes.claims import Both, Claim, Counts, Exists, Ordered, Relates
from chiasm.data.scenes.facts import OPPOSITE, Facts
from chiasm.data.scenes.looks import Look
from chiasm.data.scenes.rng import Rng
from chiasm.data.scenes.vocabulary import HOLLOW

Replacement = Literal["replaced_object", "replaced_attribute"]
_REPLACEMENTS: tuple[Replacement, ...] = ("replaced_object", "replaced_attribute")
_TRIES = 4


def negatives(claims: Sequence[Claim], facts: Facts, rng: Rng) -> tuple[Negative, ...]:
    """At most one negative of each kind.

    A word that takes another's place is drawn from the same law as the true one, and where it happens to be true
    the whole draw is repeated with another claim; so true and false texts are alike, and no text tells by itself
    which of the two it is.
    """
    made: list[Negative] = []
    for claim in claims:
        kind, changed = _changed(claim, facts, rng)
        if changed is not None:
            made.append(Negative(changed.text, claim.text, kind))
    naming = [claim for claim in claims if isinstance(claim, (Exists, Both, Relates))]
    for kind in _REPLACEMENTS if naming else ():
        for _ in range(_TRIES):
            claim = rng.choice(naming)
            changed = _replaced(claim, kind, facts, rng)
            if changed is not None:
                made.append(Negative(changed.text, claim.text, kind))
                break
    return tuple(made)


def _changed(claim: Claim, facts: Facts, rng: Rng) -> tuple[str, Claim | None]:
    """The kind of change that suits a claim, and the changed claim where it is false."""
    match claim:
        case Both():
            return "swapped_attributes", swapped(claim, facts)
        case Relates():
            return "swapped_relation", _opposite(claim, facts)
        case Counts():
            numbers = [number for number in range(claim.low, claim.high + 1) if number != claim.number]
            return "wrong_count", replace(claim, number=rng.choice(numbers))
        case Ordered():
            return "wrong_order", _reordered(claim, rng)
        case _:
            return "", None


def _opposite(claim: Relates, facts: Facts) -> Relates | None:
    if claim.relation in ("inside", "overlapping") and not facts.bystanders():
        return None  # "outside" could not have been true here, so the text would tell
    return replace(claim, relation=OPPOSITE[claim.relation])


def _reordered(claim: Ordered, rng: Rng) -> Ordered:
    things = list(claim.things)
    i = rng.integer(0, len(things) - 2)
    things[i], things[i + 1] = things[i + 1], things[i]
    return replace(claim, things=tuple(things))


def _replaced(claim: Exists | Both | Relates, kind: Replacement, facts: Facts, rng: Rng) -> Claim | None:
    """The claim with one description changed into one that fits nothing; None where the draw does not give that."""
    match claim:
        case Exists():
            new = _other(claim.thing, kind, facts, rng)
            return replace(claim, thing=new) if new is not None else None
        case Both():
            first = rng.chance(0.5)
            old, other = (claim.first, claim.second) if first else (claim.second, claim.first)
            new = _other(old, kind, facts, rng)
            if new is None or _shares(old, new, other):
                return None
            return replace(claim, first=new) if first else replace(claim, second=new)
        case Relates():
            contained = kind == "replaced_object" and claim.relation in ("inside", "outside")
            first = contained or rng.chance(0.5)  # only some shapes contain others: another one there would tell
            old, other = (claim.subject, claim.object) if first else (claim.object, claim.subject)
            new = _other(old, kind, facts, rng)
            if new is None or _shares(old, new, other):
                return None
            return replace(claim, subject=new) if first else replace(claim, object=new)


def _shares(old: Look, new: Look, other: Look) -> bool:
    """Whether the other thing has the word that was replaced, or its replacement.

    Things that are alike often stand together, and a replacement would seldom hit on the same word: that would tell.
    """
    return any(
        was != becomes and word and word in (was, becomes) for was, becomes, word in zip(old, new, other, strict=True)
    )


def _other(look: Look, kind: Replacement, facts: Facts, rng: Rng) -> Look | None:
    """A description that differs in one word and fits nothing."""
    new = _other_object(look, facts, rng) if kind == "replaced_object" else _other_attribute(look, facts, rng)
    return None if new == look or facts.count(new) or not facts.rules.may_mention(new) else new


def _other_object(look: Look, facts: Facts, rng: Rng) -> Look:
    if look.shape == "word":
        return look._replace(text=facts.rules.laws.word.draw(rng))
    if look.shape == "digit":
        return look._replace(text=str(rng.integer(0, 9)))
    shape = facts.rules.laws.shape.draw(rng)
    return look if look.texture and shape in HOLLOW else look._replace(shape=shape)  # no text tells a ring's texture


def _other_attribute(look: Look, facts: Facts, rng: Rng) -> Look:
    named = [kind for kind in ("size", "colour", "texture") if getattr(look, kind)]
    kind = rng.choice(named) if named else ""
    match kind:
        case "size":
            return look._replace(size="small" if look.size == "large" else "large")
        case "colour":
            return look._replace(colour=facts.rules.laws.colour.draw(rng))
        case "texture" if look.shape not in HOLLOW:
            return look._replace(texture=facts.rules.laws.texture.draw(rng))
        case _:
            return look
