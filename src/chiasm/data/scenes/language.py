"""Captions: a dense one that describes everything, and short ones that each make one claim."""

from __future__ import annotations

from dataclasses import dataclass

from chiasm.data.scenes import choosing
from chiasm.data.scenes.claims import Claim, Exists
from chiasm.data.scenes.facts import Facts, Related
from chiasm.data.scenes.looks import Look
from chiasm.data.scenes.phrases import number_of, some, the
from chiasm.data.scenes.rng import Rng

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Dense:
    """A dense caption. spans: for each thing of the scene, where the caption names it, article and number left out."""

    text: str
    spans: tuple[Span, ...]


def dense(facts: Facts, rng: Rng) -> Dense:
    """A caption of all things with all their attributes, then how the first of them stand to each other."""
    alike: dict[Look, list[int]] = {}
    for i, look in enumerate(facts.looks):
        alike.setdefault(look, []).append(i)
    groups = list(alike.items())
    rng.shuffle(groups)
    text = rng.choice(("", "a picture of ", "this is "))
    spans: dict[int, Span] = {}
    for position, (look, members) in enumerate(groups):
        if position:
            text += " and " if position == len(groups) - 1 else ", "
        shown = _mentioned(facts, look, len(members))
        phrase = some(shown) if len(members) == 1 else number_of(len(members), shown)
        start = len(text) + phrase.index(" ") + 1
        text += phrase
        spans.update(dict.fromkeys(members, (start, len(text))))
    clauses = _clauses(facts, rng)
    if clauses:
        text += "; " + " and ".join(clauses)
    return Dense(text, tuple(spans[i] for i in range(len(facts.looks))))


def _mentioned(facts: Facts, look: Look, number: int) -> Look:
    """The look without the word "plain", unless a thing that is not plain could then be meant as well."""
    short = look._replace(texture="")
    return short if look.texture == "plain" and facts.count(short) == number else look


def _clauses(facts: Facts, rng: Rng) -> list[str]:
    if len(facts.looks) == 1:
        return [f"{the(facts.looks[0]._replace(size='', colour='', texture=''))} is {facts.place(0)}"]
    found = []
    if facts.scene.inside is not None:
        found.append(Related("inside", *facts.scene.inside))
    if facts.scene.overlapping is not None:
        found.append(Related("overlapping", *facts.scene.overlapping))
    found += rng.sample(facts.sides, 2 - len(found))
    return [clause for claim in found if (clause := _clause(facts, rng, claim)) is not None]


def _clause(facts: Facts, rng: Rng, related: Related) -> str | None:
    related = choosing.turned(related, rng)
    subject, other = facts.name(rng, related.subject), facts.name(rng, related.object)
    if subject is None or other is None:
        return None
    return f"{the(subject)} is {related.relation} {the(other)}"


def short(facts: Facts, rng: Rng) -> list[Claim]:
    """The claims of the short captions, those that the scene allows out of one of each kind."""
    claims = [
        *(Exists(facts.looks[i], choosing.wording(rng)) for i in range(len(facts.looks)) if facts.looks[i].text),
        choosing.exists(facts, rng),
        choosing.located(facts, rng),
        choosing.both(facts, rng),
        choosing.relates(facts, rng),
        choosing.counts(facts, rng),
        choosing.ordered(facts, rng),
        choosing.lacks(facts, rng),
    ]
    return [claim for claim in claims if claim is not None]
