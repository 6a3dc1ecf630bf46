"""The source: random access, the recipe, boxes that stand in the caption."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from chiasm.config import dump, parse
from chiasm.data.sample import Sample
from chiasm.data.scenes.noise import Noise
from chiasm.data.source import Source
from chiasm.data.sources.scenes import Scenes
from chiasm.errors import RecipeError


def _same(one: Sample, other: Sample) -> bool:
    return replace(one, parts=()) == replace(other, parts=()) and one.image.key == other.image.key


def test_a_sample_follows_from_seed_and_index_alone() -> None:
    forward = list(Scenes(60, seed=51))
    source = Scenes(60, seed=51)
    for i in np.random.default_rng(0).permutation(60).tolist():
        assert _same(source[i], forward[i])
    assert _same(Scenes(10_000_000, seed=51)[7], forward[7])
    assert Scenes(10_000_000, seed=51)[9_999_999].captions
    assert len({sample.key for sample in forward}) == 60
    assert not any(_same(one, other) for one, other in zip(forward, Scenes(60, seed=52), strict=True))


def test_scenes_never_change_between_versions() -> None:
    """Recipes and scores that name a seed rely on it. Where a change is meant, change this text with it."""
    assert Scenes(10, seed=0)[3].captions[1:] == (
        "a yellow cross",
        "a pink triangle is in the bottom right",
        "a purple tree with a pink heart",
        "a pink triangle that is smaller than a purple tree",
        "a pink heart, a large yellow cross and a tree, from top to bottom",
        "a blue triangle without a blue frame",
    )


def test_annotations_can_be_left_out() -> None:
    for full, bare in zip(Scenes(40, seed=53), Scenes(40, seed=53, annotations=False), strict=True):
        assert full.captions == bare.captions
        assert full.image.key == bare.image.key
        assert (bare.boxes, bare.questions, bare.negatives) == ((), (), ())


def test_there_is_nothing_beyond_the_end() -> None:
    source = Scenes(3)
    assert len(source) == len(list(source)) == 3
    for index in (3, -1):
        with pytest.raises(IndexError, match=str(index)):
            source[index]


def test_boxes_name_their_phrase_in_the_caption() -> None:
    source = Scenes(300, seed=54, size=32)
    for i, sample in enumerate(source):
        things = source.scene(i).things
        assert len(sample.boxes) == len(things)
        for box, thing in zip(sample.boxes, things, strict=True):
            assert box.span is not None
            assert sample.captions[0][slice(*box.span)] == box.phrase
            assert thing.look.shape in box.phrase
            assert thing.look.colour in box.phrase
            assert box.corners == tuple(edge / 64 for edge in thing.corners)


def test_boxes_alone_are_those_of_the_full_annotation() -> None:
    whole, boxes = Scenes(5, seed=3), Scenes(5, seed=3, annotations="boxes")
    for one, other in zip(whole, boxes, strict=True):
        assert (other.boxes, other.captions, other.image.key) == (one.boxes, one.captions, one.image.key)
        assert one.questions
        assert not other.questions + other.negatives


def test_a_recipe_makes_scenes() -> None:
    entries = {
        "source": "scenes",
        "count": 20,
        "objects": [2, 3],
        "frequencies": {"red": 3},
        "held_out": ["red circle"],
        "backgrounds": ["plain", "grid"],
        "noise": {"written": 0.1},
    }
    source = parse(Source, entries)  # type: ignore[type-abstract]  # one of its subclasses
    assert source == Scenes(
        20,
        objects=(2, 3),
        frequencies={"red": 3.0},
        held_out=("red circle",),
        backgrounds=("plain", "grid"),
        noise=Noise(written=0.1),
    )
    assert parse(Source, dump(source)) == source  # type: ignore[type-abstract]  # one of its subclasses
    with pytest.raises(RecipeError, match="did you mean 'written'"):
        parse(Source, entries | {"noise": {"writen": 0.1}})  # type: ignore[type-abstract]  # one of its subclasses


def test_pictures_are_rgb_arrays_of_the_size_asked_for() -> None:
    for size in (32, 64, 97):
        picture = Scenes(1, size=size)[0].image.decode()
        assert (picture.mode, picture.size) == ("RGB", (size, size))
