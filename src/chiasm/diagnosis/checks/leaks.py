"""Checks for training samples that are also in an evaluation set, whose score then counts memory as skill."""

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
class _EvaluationSet:
    """An evaluation set as the check compares with it.

    images, texts: by their hashes, with the index of the first sample that has them. same, shared_texts: training
        samples found in it.
    """

    images: dict[int, int] = field(default_factory=dict)
    texts: dict[int, int] = field(default_factory=dict)
    prints: Prints = field(default_factory=Prints)
    read: int = 0
    same: FlaggedRows = field(default_factory=FlaggedRows)
    shared_texts: FlaggedRows = field(default_factory=FlaggedRows)
    met: set[tuple[int, int]] = field(default_factory=set)  # (training, evaluation) pairs that are already reported


class Leaks(Check):
    """Compares pictures and texts of the training data with those of every evaluation set."""

    evaluation = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._evaluated: dict[str, _EvaluationSet] = defaultdict(_EvaluationSet)
        self._prints, self._trained = Prints(), 0
        self._sources = {set_.name: set_.source for set_ in setting.sets}

    def see(self, seen: Seen) -> None:
        if seen.trains:
            self._compare(seen)
            return
        evaluated = self._evaluated[seen.set]
        evaluated.read += 1
        for image in seen.decoded:
            evaluated.images.setdefault(key_number(image.key), seen.index)
            evaluated.prints.add(seen.index, image.print_)
        for text in seen.texts:
            evaluated.texts.setdefault(text_hash(text), seen.index)

    def _compare(self, seen: Seen) -> None:
        self._trained += 1
        for image in seen.decoded:
            self._prints.add(seen.index, image.print_)
            for name, evaluated in self._evaluated.items():
                if (index := evaluated.images.get(key_number(image.key))) is not None:
                    evaluated.same.add(self._pair(seen.index, name, index), "the same bytes", (image.image,))
                    evaluated.met.add((seen.index, index))
        for name, evaluated in self._evaluated.items():
            indexes = ((text, evaluated.texts.get(text_hash(text))) for text in seen.texts)
            text, index = next(((text, index) for text, index in indexes if index is not None), ("", None))
            if index is not None:
                evaluated.shared_texts.add(self._pair(seen.index, name, index), f"“{text}”")

    def _pair(self, trained: int, name: str, index: int) -> str:
        return f"{TRAINING} {trained} is {name} {index}"

    def findings(self) -> Iterator[Finding]:
        train = dump(self.setting.recipe.data.train)
        for name, evaluated in self._evaluated.items():
            if dump(self._sources[name]) == train:
                yield self.found(
                    "error",
                    f"{name} asks about the training data",
                    "Its score says what was learned by heart, not what was understood.",
                    "Give the task other data, such as another split or seed.",
                )
                continue
            if evaluated.same.count:
                yield self.found(
                    "error",
                    f"training pictures that {name} asks about",
                    "Their items are known by heart, so the score is too high.",
                    "Take the pictures out of the training data.",
                    rows=evaluated.same,
                    of=self._trained,
                )
            if (near := self._near(name, evaluated)).count:
                yield self.found(
                    "warning",
                    f"training pictures nearly like some that {name} asks about",
                    "A copy in another size or quality is known by heart too.",
                    "Look at the pairs; take the copies out of the training data.",
                    rows=near,
                    of=self._trained,
                )
            if evaluated.shared_texts.count:
                yield self.found(
                    "note",
                    f"training samples with a text that is also in {name}",
                    "Harmless for captions that many pictures have; not where a text names one picture or one answer.",
                    "Look at the pairs.",
                    rows=evaluated.shared_texts,
                    of=self._trained,
                )

    def _near(self, name: str, evaluated: _EvaluationSet) -> FlaggedRows:
        near = FlaggedRows()
        for candidate, (trained, index) in enumerate(self._prints.pairs(evaluated.prints)):
            if candidate == _CONFIRMED:
                break
            if (trained, index) in evaluated.met:
                continue
            evaluated.met.add((trained, index))
            for image in self.setting.recipe.data.train[trained].images:
                other = _like(image, self._sources[name][index].images)
                if other is not None:
                    near.add(self._pair(trained, name, index), "alike", (image, other))
        return near


def _like(image: Image, others: tuple[Image, ...]) -> Image | None:
    return next((other for other in others if alike(image, other)), None)
