"""Training samples that are also in an evaluation set: what is learned by heart is then taken for skill."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from chiasm.config import dump
from chiasm.data.image import Image
from chiasm.diagnosis.check import Check
from chiasm.diagnosis.checks.captions import text_hash
from chiasm.diagnosis.checks.images import key_number
from chiasm.diagnosis.finding import Finding, FlaggedRows
from chiasm.diagnosis.prints import Prints, alike
from chiasm.diagnosis.seen import TRAINING, Seen
from chiasm.diagnosis.setting import Setting

_CONFIRMED = 500  # candidates that are looked at again


@dataclass
class _Asked:
    """What an evaluation set holds: pictures and texts by their hashes, with the place of one that has them."""

    pictures: dict[int, int] = field(default_factory=dict)
    texts: dict[int, int] = field(default_factory=dict)
    prints: Prints = field(default_factory=Prints)
    read: int = 0
    same: FlaggedRows = field(default_factory=FlaggedRows)
    said: FlaggedRows = field(default_factory=FlaggedRows)
    met: set[tuple[int, int]] = field(default_factory=set)  # (training, asked) pairs that are already told


class Leaks(Check):
    """Compares pictures and texts of the training data with those of every evaluation set."""

    evaluation = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._asked: dict[str, _Asked] = defaultdict(_Asked)
        self._prints, self._trained = Prints(), 0
        self._sources = {one.name: one.source for one in setting.sets}

    def see(self, seen: Seen) -> None:
        if seen.trains:
            self._compare(seen)
            return
        asked = self._asked[seen.set]
        asked.read += 1
        for one in seen.pictures:
            asked.pictures.setdefault(key_number(one.key), seen.index)
            asked.prints.add(seen.index, one.print_)
        for text in seen.texts:
            asked.texts.setdefault(text_hash(text), seen.index)

    def _compare(self, seen: Seen) -> None:
        self._trained += 1
        for one in seen.pictures:
            self._prints.add(seen.index, one.print_)
            for name, asked in self._asked.items():
                if (place := asked.pictures.get(key_number(one.key))) is not None:
                    asked.same.add(self._pair(seen.index, name, place), "the same bytes", (one.image,))
                    asked.met.add((seen.index, place))
        for name, asked in self._asked.items():
            places = ((text, asked.texts.get(text_hash(text))) for text in seen.texts)
            text, place = next(((text, place) for text, place in places if place is not None), ("", None))
            if place is not None:
                asked.said.add(self._pair(seen.index, name, place), f"“{text}”")

    def _pair(self, trained: int, name: str, place: int) -> str:
        return f"{TRAINING} {trained} is {name} {place}"

    def findings(self) -> Iterator[Finding]:
        train = dump(self.setting.recipe.data.train)
        for name, asked in self._asked.items():
            if dump(self._sources[name]) == train:
                yield self.found(
                    "error",
                    f"{name} asks about the training data",
                    "Its score says what was learned by heart, not what was understood.",
                    "Give the task other data, such as another split or seed.",
                )
                continue
            if asked.same.count:
                yield self.found(
                    "error",
                    f"training pictures that {name} asks about",
                    "Their items are known by heart, so the score is too high.",
                    "Take the pictures out of the training data.",
                    rows=asked.same,
                    of=self._trained,
                )
            if (near := self._near(name, asked)).count:
                yield self.found(
                    "warning",
                    f"training pictures nearly like some that {name} asks about",
                    "A copy in another size or quality is known by heart too.",
                    "Look at the pairs; take the copies out of the training data.",
                    rows=near,
                    of=self._trained,
                )
            if asked.said.count:
                yield self.found(
                    "note",
                    f"training samples with a text that is also in {name}",
                    "Harmless for captions that many pictures have; not where a text names one picture or one answer.",
                    "Look at the pairs.",
                    rows=asked.said,
                    of=self._trained,
                )

    def _near(self, name: str, asked: _Asked) -> FlaggedRows:
        near = FlaggedRows()
        for at, (trained, place) in enumerate(self._prints.pairs(asked.prints)):
            if at == _CONFIRMED:
                break
            if (trained, place) in asked.met:
                continue
            asked.met.add((trained, place))
            for one in self.setting.recipe.data.train[trained].images:
                other = _like(one, self._sources[name][place].images)
                if other is not None:
                    near.add(self._pair(trained, name, place), "alike", (one, other))
        return near


def _like(image: Image, others: tuple[Image, ...]) -> Image | None:
    return next((other for other in others if alike(image, other)), None)
