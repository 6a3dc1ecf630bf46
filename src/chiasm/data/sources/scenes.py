"""The built-in world: rendered scenes with exact ground truth, made from (seed, index) without any file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from chiasm.config import suggest
from chiasm.data.lazy_image import LazyImage
from chiasm.data.sample import Box, Image, Sample
from chiasm.data.scenes.facts import Facts
from chiasm.data.scenes.language import dense, short
from chiasm.data.scenes.looks import combination
from chiasm.data.scenes.negatives import negatives
from chiasm.data.scenes.noise import Noise, boilerplate, foreign, paler, write
from chiasm.data.scenes.placement import GRID
from chiasm.data.scenes.questions import questions
from chiasm.data.scenes.render import render
from chiasm.data.scenes.rng import Rng
from chiasm.data.scenes.vocabulary import NUMBERS, Background, laws
from chiasm.data.scenes.world import Only, Rules, Scene, compose
from chiasm.data.source import Source
from chiasm.errors import RecipeError

_NOISE = 1  # added to a key, for numbers of their own: noise leaves the scenes as they are without it
_TRIES = 8


@dataclass(frozen=True)
class Scenes(Source):
    """Scenes of shapes and written words, with captions, boxes, questions and hard negatives that are exactly true.

    The first caption of a sample is dense: it names all things with all their attributes. The others are short.
    Every sample follows from (seed, index) alone, so scenes need no file and are the same in any order.

    count: how many samples. seed: the world; another seed gives other scenes. size: pixels along each side; it
        changes nothing but the pixels.
    objects: the fewest and the most things in a scene, 1 to 6.
    frequencies: how often shapes, colours, textures and words are shown: "uniform"; "zipf", where the concept of rank
        r within its kind has weight 1/r; or weights of single concepts, {"red": 4, "moon": 0}, the others having 1.
    held_out, only: combinations of attributes, such as "red circle" or "large striped star". Scenes that are "seen"
        neither show nor mention them; in scenes of "held_out" at least one thing has one; "all" makes no difference.
    backgrounds: the kinds of background, each as likely as the others.
    noise: shares of samples that are spoiled on purpose; meta["noise"] tells how, "" if not at all.
    annotations: False leaves out boxes, questions and negatives, "boxes" but the latter two, which take the most time;
        captions stay as they are.
    Raises RecipeError where these do not fit together.
    """

    count: int
    seed: int = 0
    size: int = 64
    objects: tuple[int, int] = (1, 6)
    frequencies: Literal["uniform", "zipf"] | dict[str, float] = "uniform"
    held_out: tuple[str, ...] = ()
    only: Only = "seen"
    backgrounds: tuple[Background, ...] = get_args(Background)
    noise: Noise = field(default_factory=Noise)
    annotations: bool | Literal["boxes"] = True

    def __post_init__(self) -> None:
        if self.count < 0 or self.seed < 0:
            raise RecipeError(f"scenes: count and seed must not be negative, unlike {self.count} and {self.seed}")
        if self.size < 32:
            raise RecipeError(f"scenes.size: small shapes cannot be told apart below 32 pixels; {self.size} is too few")
        if not 1 <= self.objects[0] <= self.objects[1] < len(NUMBERS):
            raise RecipeError(f"scenes.objects: give the fewest and the most, 1 to 6, not {self.objects}")
        if self.only == "held_out" and not self.held_out:
            raise RecipeError("scenes.only: held_out needs combinations in held_out, such as [red circle]")
        for background in self.backgrounds:
            if background not in get_args(Background):
                known = suggest(background, get_args(Background))
                raise RecipeError(f"scenes.backgrounds: there is no background '{background}'{known}")
        if not self.backgrounds:
            raise RecipeError("scenes.backgrounds: name at least one")
        _ = self._rules  # so that a mistake in frequencies or held_out shows at once

    @classmethod
    def to_look_at(cls) -> Mapping[str, object]:
        return {"size": 224, "count": 1000}  # 64 pixels are for training, not for looking

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(f"scenes hold {self.count} samples; there is no number {index}")
        if not self._noisy:
            return self._sample(index)
        rng = Rng(self.seed, index, _NOISE)
        return self._spoiled(index, self.noise.draw(rng), rng)

    def scene(self, index: int) -> Scene:
        """The ground truth of the scene at an index, noise aside."""
        return compose(Rng(self.seed, index), self._rules)

    def _sample(self, index: int) -> Sample:
        rng = Rng(self.seed, index)
        scene = compose(rng, self._rules)
        facts = Facts(scene, self._rules)
        whole = dense(facts, rng)
        claims = short(facts, rng)
        captions = (whole.text, *(claim.text for claim in claims))
        parts = (self._image(scene),)
        key = f"scenes/{self.seed}/{index}"
        meta = {"noise": "", "objects": len(scene.things), "background": scene.background}
        if not self.annotations:
            return Sample(key, parts, captions, meta=meta)
        boxes = []
        for thing, (start, end) in zip(scene.things, whole.spans, strict=True):
            x0, y0, x1, y1 = thing.corners
            corners = (x0 / GRID, y0 / GRID, x1 / GRID, y1 / GRID)
            boxes.append(Box(corners, whole.text[start:end], (start, end)))
        if self.annotations == "boxes":
            return Sample(key, parts, captions, tuple(boxes), meta=meta)
        asked, denied = questions(facts, rng), negatives(claims, facts, rng)
        return Sample(key, parts, captions, tuple(boxes), asked, denied, meta)

    def _image(self, scene: Scene, draw: Callable[[Scene, int], NDArray[np.uint8]] = render) -> Image:
        return LazyImage(partial(draw, scene, self.size), (self.size, self.size))

    def _spoiled(self, index: int, kind: str, rng: Rng) -> Sample:
        if kind == "duplicates":
            return self._duplicate(index, rng)
        sample = self._sample(index)
        meta = {**sample.meta, "noise": kind}
        match kind:
            case "mismatched":
                return replace(sample, parts=(self._image(self._unlike(index)),), meta=meta)
            case "boilerplate":
                return _recaptioned(sample, boilerplate(rng), meta)
            case "wrong_language":
                return _recaptioned(sample, foreign(rng, [thing.look for thing in self.scene(index).things]), meta)
            case "written":
                text = min(sample.captions, key=len)
                written = Image(write(render(self.scene(index), self.size), text, rng))
                return replace(sample, parts=(written,), meta=meta)
            case _:
                return sample

    def _duplicate(self, index: int, rng: Rng) -> Sample:
        """An earlier sample that is not spoiled itself; the sample of the index where there is none."""
        for _ in range(_TRIES if index else 0):
            original = rng.integer(0, index - 1)
            if not self.noise.draw(Rng(self.seed, original, _NOISE)):
                sample = self._sample(original)
                exact = rng.chance(0.5)
                image = self._image(self.scene(original), render if exact else _render_paler)
                meta = {**sample.meta, "noise": "duplicates", "duplicate_of": sample.key, "exact": exact}
                return replace(sample, key=f"scenes/{self.seed}/{index}", parts=(image,), meta=meta)
        return self._sample(index)

    def _unlike(self, index: int) -> Scene:
        """A scene beyond the last index; if possible one that has no thing of the same shape and colour."""
        shown = {(thing.look.colour, thing.look.shape) for thing in self.scene(index).things}
        scenes = (self.scene(index + self.count * turn) for turn in range(1, _TRIES + 1))
        scene = next(scenes)
        while any((thing.look.colour, thing.look.shape) in shown for thing in scene.things):
            following = next(scenes, None)
            if following is None:
                break
            scene = following
        return scene

    @cached_property
    def _noisy(self) -> bool:
        return any(self.noise.shares.values())

    @cached_property
    def _rules(self) -> Rules:
        known, held_out = laws(self.frequencies), tuple(combination(words) for words in self.held_out)
        for look in held_out:
            for law, name in ((known.shape, look.shape), (known.colour, look.colour), (known.texture, look.texture)):
                if name and not law.probability(name):
                    raise RecipeError(f"scenes.held_out: '{name}' has frequency 0, so there is nothing to hold out")
        return Rules(known, self.objects, held_out, self.only, self.backgrounds)


def _render_paler(scene: Scene, size: int) -> NDArray[np.uint8]:
    return paler(render(scene, size))


def _recaptioned(sample: Sample, caption: str, meta: dict[str, object]) -> Sample:
    """The sample with another text as its only caption; boxes keep their phrases but stand in no caption."""
    boxes = tuple(replace(box, span=None) for box in sample.boxes)
    return replace(sample, captions=(caption,), boxes=boxes, meta=meta)
