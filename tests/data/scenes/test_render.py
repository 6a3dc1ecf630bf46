"""Pixels: every thing is where its box says, in its colour, and can be recognised at 64 pixels."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from chiasm.data.scenes.looks import Look
from chiasm.data.scenes.render import render
from chiasm.data.scenes.shapes import mask, written_mask
from chiasm.data.scenes.vocabulary import COLOURS, COLOURS_ON, SHAPES, TEXTURES, TONES, WORDS, Background
from chiasm.data.scenes.world import Scene, Thing
from chiasm.data.sources.scenes import Scenes


def _alone(look: Look, corners: tuple[int, int, int, int], tone: str = "stone") -> Scene:
    thing = Thing(look, corners)
    return Scene((thing,), None, None, background="plain", tone=tone, shift=(0, 0), group=None)


@pytest.mark.parametrize("size", [64, 100, 224])
def test_a_thing_fills_its_box_and_nothing_else(size: int) -> None:
    source = Scenes(250, seed=21, objects=(1, 1), backgrounds=("plain",))
    for i in range(250):
        scene = source.scene(i)
        pixels = render(scene, size).astype(int)
        drawn = np.abs(pixels - np.array(TONES[scene.tone])).max(axis=2) > 40
        rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
        extent = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        wanted = np.array(scene.things[0].corners) * size / 64
        tolerance = 1.5 + 0.02 * size  # the tips of stars and drops are thinner than a pixel
        assert np.abs(extent - wanted).max() <= tolerance, scene.things[0]


@pytest.mark.parametrize("colour", COLOURS)
def test_a_thing_has_its_colour(colour: str) -> None:
    for shape in SHAPES:
        for texture in TEXTURES if shape not in ("ring", "frame") else ("plain",):
            pixels = render(_alone(Look("large", colour, texture, shape), (20, 20, 44, 44)), 64).reshape(-1, 3)
            exact = (pixels == np.array(COLOURS[colour])).all(axis=1).sum()
            others = [(pixels == np.array(rgb)).all(axis=1).sum() for name, rgb in COLOURS.items() if name != colour]
            assert exact > (100 if texture == "plain" else 30), (shape, texture)
            assert max(others) == 0


def test_colours_and_backgrounds_are_far_apart() -> None:
    for one, other in combinations(COLOURS.values(), 2):
        assert np.linalg.norm(np.subtract(one, other)) > 75
    assert COLOURS_ON["stone"] == set(COLOURS)  # there is a background for every mixture
    assert all(colours for colours in COLOURS_ON.values())


def test_shapes_have_masks_of_their_own() -> None:
    masks = {shape: np.asarray(mask(shape, 14, 14)) / 255 for shape in SHAPES if shape not in ("oval", "rectangle")}
    for (name, one), (other_name, other) in combinations(masks.items(), 2):
        union = np.maximum(one, other).sum()
        assert np.minimum(one, other).sum() / union < 0.9, (name, other_name)
    assert SHAPES["oval"] >= 1.5 * SHAPES["circle"]  # these differ from circle and square by their aspect
    assert SHAPES["rectangle"] >= 1.5 * SHAPES["square"]
    assert len(SHAPES) >= 16


@pytest.mark.parametrize("size", ["small", "large"])
def test_textures_are_told_apart_in_pixels(size: str) -> None:
    side = 13 if size == "small" else 23
    for shape in ("circle", "square", "triangle", "heart", "star", "house", "cloud"):
        images = [
            render(_alone(Look(size, "blue", texture, shape), (20, 20, 20 + side, 20 + side)), 64).astype(float)
            for texture in TEXTURES
        ]
        for (i, one), (j, other) in combinations(enumerate(images), 2):
            changed = np.abs(one - other).max(axis=2) > 60
            assert changed.sum() > 0.07 * side * side, (shape, TEXTURES[i], TEXTURES[j])


def test_words_are_told_apart_at_64_pixels() -> None:
    for length in (3, 4):
        words = [word for word in WORDS if len(word) == length]
        masks = [np.asarray(written_mask(word, 8 * length, 10)) / 255 for word in words]
        for (i, one), (j, other) in combinations(enumerate(masks), 2):
            assert np.abs(one - other).mean() > 0.05, (words[i], words[j])


def test_the_size_in_pixels_changes_nothing_but_the_pixels() -> None:
    smooth: tuple[Background, ...] = ("plain", "gradient", "grid")  # grain is as fine as pixels are
    small, large = (Scenes(20, seed=22, size=size, backgrounds=smooth) for size in (64, 128))
    for one, other in zip(small, large, strict=True):
        assert replace(one, parts=()) == replace(other, parts=())
        shrunk = np.asarray(other.image.decode().reduce(2)).astype(int)
        assert np.abs(shrunk - np.asarray(one.image.decode()).astype(int)).mean() < 6


def test_backgrounds_go_from_plain_to_cluttered_and_stay_quiet() -> None:
    unrest = {}
    for kind in ("plain", "gradient", "grid", "grain", "clutter"):
        scene = replace(_alone(Look("small", "red", "plain", "circle"), (2, 2, 14, 14)), background=kind)
        ground = render(scene, 64)[16:].astype(float)
        unrest[kind] = np.abs(np.diff(ground, axis=0)).mean() + np.abs(np.diff(ground, axis=1)).mean()
        distance = np.linalg.norm(ground - np.array(TONES["stone"]), axis=2)
        assert distance.max() < 75  # no mark comes near the contrast of a thing
    assert unrest["plain"] == 0
    assert unrest["gradient"] < unrest["grid"]
    assert unrest["gradient"] < unrest["clutter"]
