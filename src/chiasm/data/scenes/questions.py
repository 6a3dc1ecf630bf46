"""Questions with choices, each kind such that no answer is right more often than the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations

from chiasm.data.sample import Question
from chiasm.data.scenes import choosing
from chiasm.data.scenes.facts import OPPOSITE, Facts
from chiasm.data.scenes.looks import Look
from chiasm.data.scenes.phrases import listed, noun, number_of, plural_noun, some, the
from chiasm.data.scenes.rng import Law, Rng
from chiasm.data.scenes.vocabulary import DIGITS, HOLLOW, NUMBERS

Options = list[tuple[str, str]]  # (choice, statement)
_CHOICES = 4
_TRIES = 8


def questions(facts: Facts, rng: Rng) -> tuple[Question, ...]:
    """At most one question of each kind, those that the scene can answer."""
    asked = (ask(facts, rng) for ask in _KINDS)
    return tuple(question for question in asked if question is not None)


def _question(rng: Rng, kind: str, text: str, options: Options) -> Question:
    """A question whose first option is the right one; the options are shown in random order."""
    answer = options[0][0]
    rng.shuffle(options)
    choices, statements = zip(*options, strict=True)
    return Question(text, answer, kind, choices, statements)


def _subject(facts: Facts, rng: Rng, *unnamed: str, among: Sequence[int] | None = None) -> tuple[int, Look] | None:
    """A shape to ask about, and a description of it alone that leaves the attributes asked for unnamed."""
    for i in rng.sample(facts.shapes if among is None else among, _TRIES):
        size, colour, texture, shape, _ = facts.looks[i]
        options = [Look("", "", "", shape), Look("", colour, "", shape), Look(size, "", "", shape)]
        options += [Look("", "", texture, shape), Look(size, colour, "", shape), Look("", colour, texture, shape)]
        for option in options:
            if facts.count(option) == 1 and not any(getattr(option, kind) for kind in unnamed):
                return i, option
    return None


def _wrong(rng: Rng, law: Law, answer: str, nearby: Sequence[str] = ()) -> list[str]:
    """Up to three wrong answers, half of the time one that something else in the scene has; none if not to be asked.

    Where a law shows some concepts more often than others, questions about the frequent ones are thinned out, so that
    of the choices offered each is right equally often.
    """
    near = [name for name in nearby if name != answer]
    wrong = [rng.choice(near)] if near and rng.chance(0.5) else []
    found = len(wrong)  # drawn from the law, as the answer was; the others are drawn evenly
    wrong += rng.sample([name for name in law.names if name != answer and name not in wrong], _CHOICES - 1 - found)
    weights = {name: law.probability(name) for name in (answer, *wrong)}
    if found:
        total = sum(weights.values())
        weights = {name: weight * (total - weight) for name, weight in weights.items()}
    return wrong if rng.chance(min(weights.values()) / weights[answer]) else []


def _colour(facts: Facts, rng: Rng) -> Question | None:
    found = _subject(facts, rng, "colour")
    if found is None:
        return None
    i, name = found
    answer = facts.looks[i].colour
    wrong = _wrong(rng, facts.rules.laws.colour, answer, [look.colour for look in facts.looks])
    wrong = [colour for colour in wrong if facts.rules.may_mention(name._replace(colour=colour))]
    if not wrong:
        return None
    options = [(colour, f"{the(name)} is {colour}") for colour in (answer, *wrong)]
    return _question(rng, "colour", f"what colour is {the(name)}?", options)


def _texture(facts: Facts, rng: Rng) -> Question | None:
    found = _subject(facts, rng, "texture", among=[i for i in facts.shapes if facts.looks[i].shape not in HOLLOW])
    if found is None:
        return None
    i, name = found
    answer = facts.looks[i].texture
    wrong = _wrong(rng, facts.rules.laws.texture, answer)
    wrong = [texture for texture in wrong if facts.rules.may_mention(name._replace(texture=texture))]
    if not wrong:
        return None
    options = [(texture, f"{the(name)} is {texture}") for texture in (answer, *wrong)]
    return _question(rng, "texture", f"what pattern does {the(name)} have?", options)


def _size(facts: Facts, rng: Rng) -> Question | None:
    """A question about size, where both are shown, each half of the time; a single thing is either just as often."""
    by_size = {size: [i for i in facts.sizeable() if facts.looks[i].size == size] for size in ("small", "large")}
    if len(facts.looks) > 1:
        found = {size: _subject(facts, rng, "size", among=those) for size, those in by_size.items()}
        if None in found.values():
            return None
        size = rng.choice(("small", "large"))
        subject = found[size]
    else:
        subject = _subject(facts, rng, "size")
    if subject is None:
        return None
    i, name = subject
    answer = facts.looks[i].size
    other = "small" if answer == "large" else "large"
    if not facts.rules.may_mention(name._replace(size=other)):
        return None
    options = [(size, f"{the(name)} is {size}") for size in (answer, other)]
    return _question(rng, "size", f"is {the(name)} small or large?", options)


def _count(facts: Facts, rng: Rng) -> Question | None:
    claim = choosing.counts(facts, rng)
    if claim is None:
        return None
    wrong = rng.sample([n for n in range(claim.low, claim.high + 1) if n != claim.number], _CHOICES - 1)
    options = [
        (NUMBERS[n], f"there {'is' if n == 1 else 'are'} {number_of(n, claim.things)}") for n in (claim.number, *wrong)
    ]
    return _question(rng, "count", f"how many {plural_noun(claim.things)} are there?", options)


def _position(facts: Facts, rng: Rng) -> Question | None:
    """A question about position: left or right, top or bottom, or one of four corners."""
    for i in rng.sample(facts.single, _TRIES):
        name = facts.name(rng, i)
        column, row = facts.column(i), facts.row(i)
        if name is None or not (column or row):
            continue
        phrases = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}
        if column and row and rng.chance(0.5):
            corners = [f"{r} {c}" for r in ("top", "bottom") for c in ("left", "right")]
            corners.sort(key=lambda corner: corner != f"{row} {column}")
            options = [(corner, f"{the(name)} is in the {corner}") for corner in corners]
            return _question(rng, "position", f"in which corner of the picture is {the(name)}?", options)
        answer = column if column and (not row or rng.chance(0.5)) else row
        other = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}[answer]
        options = [(side, f"{the(name)} is {phrases[side]}") for side in (answer, other)]
        return _question(rng, "position", f"on which side of the picture is {the(name)}?", options)
    return None


def _relation(facts: Facts, rng: Rng) -> Question | None:
    related = choosing.meeting(facts, rng) if facts.bystanders() and rng.chance(0.6) else None
    if related is None:
        if not facts.sides:
            return None
        related = rng.choice(facts.sides)
    related = choosing.turned(related, rng)
    sized = related.relation not in ("inside", "outside")
    subject, other = facts.name(rng, related.subject, sized), facts.name(rng, related.object, sized)
    if subject is None or other is None:
        return None
    options = [(r, f"{the(subject)} is {r} {the(other)}") for r in (related.relation, OPPOSITE[related.relation])]
    first, second = sorted(choice for choice, _ in options)
    return _question(rng, "relation", f"is {the(subject)} {first} or {second} {the(other)}?", list(options))


def _comparison(facts: Facts, rng: Rng) -> Question | None:
    related = choosing.compared(facts, rng)
    if related is None:
        return None
    large, small = facts.name(rng, related.subject, sized=False), facts.name(rng, related.object, sized=False)
    if large is None or small is None:
        return None
    word, right, wrong = ("bigger", large, small) if rng.chance(0.5) else ("smaller", small, large)
    options = [(the(right), f"{the(right)} is {word} than {the(wrong)}")]
    options.append((the(wrong), f"{the(wrong)} is {word} than {the(right)}"))
    names = [the(right), the(wrong)]
    rng.shuffle(names)
    return _question(rng, "comparison", f"which is {word}, {names[0]} or {names[1]}?", options)


def _existence(facts: Facts, rng: Rng) -> Question | None:
    """A question about existence, yes and no equally likely; half of the absent shapes mix present attributes."""
    if not facts.shapes:
        return None
    looks = [facts.looks[i] for i in facts.shapes]
    shown = rng.choice(looks)
    asked: Look | None = Look(colour=shown.colour, shape=shown.shape)
    truly = rng.chance(0.5)
    if not truly:
        mixed = [Look(colour=look.colour, shape=other.shape) for look in looks for other in looks]
        mixed = [look for look in mixed if not facts.count(look) and facts.rules.may_mention(look)]
        asked = rng.choice(mixed) if mixed and rng.chance(0.5) else choosing.absent(facts, rng, coloured=True)
    if asked is None:
        return None
    options = [("yes", f"there is {some(asked)}"), ("no", f"there is no {noun(asked)}")]
    if not truly:
        options.reverse()
    return _question(rng, "existence", f"is there {some(asked)}?", options)


def _negation(facts: Facts, rng: Rng) -> Question | None:
    missing = choosing.absent(facts, rng, coloured=False)
    shown = sorted({facts.looks[i].shape for i in facts.shapes})
    if missing is None or not shown:
        return None
    shapes = [missing.shape, *rng.sample(shown, _CHOICES - 1)]
    if not rng.chance(_evenly(shapes, facts)):
        return None
    options = [(shape, f"there is no {shape}") for shape in shapes]
    return _question(rng, "negation", "which of these shapes is not in the picture?", options)


def _evenly(shapes: Sequence[str], facts: Facts) -> float:
    """How many of the questions on frequent and rare shapes to ask, so that each is the missing one equally often.

    A shape of probability p is missing among n shapes with (1 - p)^n, and drawn as the missing one with p.
    """
    law, number = facts.rules.laws.shape, len(facts.shapes)
    missing = {shape: (1 - law.probability(shape)) ** number for shape in shapes}
    weights = [law.probability(shape) * missing[shape] / (1 - missing[shape]) for shape in shapes]
    return min(weights) / weights[0]


def _reading(facts: Facts, rng: Rng) -> Question | None:
    written = next((look for look in facts.looks if look.text), None)
    if written is None:
        return None
    if written.shape == "digit":
        wrong = rng.sample([digit for digit in DIGITS if digit != written.text], _CHOICES - 1)
        options = [(digit, f"the digit is {digit}") for digit in (written.text, *wrong)]
        return _question(rng, "reading", "which digit is written?", options)
    wrong = _wrong(rng, facts.rules.laws.word, written.text)
    if not wrong:
        return None
    options = [(word, f"the word is '{word}'") for word in (written.text, *wrong)]
    return _question(rng, "reading", "which word is written?", options)


def _order(facts: Facts, rng: Rng) -> Question | None:
    claim = choosing.ordered(facts, rng)
    if claim is None:
        return None
    wrong = rng.sample(list(permutations(claim.things))[1:], _CHOICES - 1)
    options = [
        (listed([noun(look) for look in order]), f"from {claim.axis}: {listed([some(look) for look in order])}")
        for order in (claim.things, *wrong)
    ]
    return _question(rng, "order", f"what is in the picture, from {claim.axis}?", options)


_KINDS: tuple[Callable[[Facts, Rng], Question | None], ...] = (
    _colour,
    _texture,
    _size,
    _count,
    _position,
    _relation,
    _existence,
    _negation,
    _comparison,
    _reading,
    _order,
)
