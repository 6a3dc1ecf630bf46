"""Contact sheets: each picture where it belongs, captions below, boxes in the colours of their phrases."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.data.contact_sheet import contact_sheet
from chiasm.data.sample import Box, Image, Sample, Text, Video
from chiasm.data.sources.scenes import Scenes
from chiasm.errors import DataError

RED = np.full((40, 40, 3), (250, 10, 10), np.uint8)


def _count(page: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((page == np.array(colour)).all(axis=2).sum())


def test_every_picture_is_shown_large_and_crisp() -> None:
    colours = [(250, 10 * i, 5) for i in range(7)]
    samples = []
    for i, colour in enumerate(colours):
        pixels = np.zeros((30, 30, 3), np.uint8)
        pixels[::2] = colour  # stripes of one pixel, which any smoothing would mix
        samples.append(Sample(str(i), (Image(pixels),)))
    page = np.asarray(contact_sheet(samples, columns=3, width=700))
    assert page.shape[1] == 700
    assert [_count(page, colour) for colour in colours] == [180 * 90] * 7  # six times as large
    places = [np.argwhere((page == np.array(colour)).all(axis=2)).min(axis=0) for colour in colours]
    assert places == sorted(places, key=tuple)  # in rows, in order


def test_captions_stand_below_and_can_be_left_out() -> None:
    sample = Sample("a", (Image(RED),), captions=("a red field of nothing but red",))
    with_caption, without = (np.asarray(contact_sheet([sample], 1, 300, captions=c)) for c in (True, False))
    assert with_caption.shape[0] > without.shape[0]
    below = with_caption[without.shape[0] - 20 :, 20:-20]
    assert (below < 100).all(axis=2).sum() > 50
    assert (without < 100).all(axis=2).sum() == 0


def test_a_long_caption_is_cut() -> None:
    short, long = (Sample("a", (Image(RED),), captions=(" ".join(["word"] * n),)) for n in (60, 2000))
    heights = [contact_sheet([sample], 1, 300).height for sample in (short, long)]
    assert heights[0] == heights[1]


def test_boxes_and_their_phrases_share_a_colour() -> None:
    caption = "a cat and a dog"
    boxes = (Box((0.1, 0.1, 0.4, 0.4), "cat", (2, 5)), Box((0.5, 0.5, 0.9, 0.9), "dog", (12, 15)))
    sample = Sample("a", (Image(np.full((80, 80, 3), 255, np.uint8)),), captions=(caption,), boxes=boxes)
    page = np.asarray(contact_sheet([sample], 1, 400, boxes=True))
    colours, counts = np.unique(page.reshape(-1, 3), axis=0, return_counts=True)
    strong = [tuple(c) for c, n in zip(colours.tolist(), counts, strict=True) if max(c) - min(c) > 90 and n > 30]
    assert len(strong) == 2
    for colour in strong:
        rows = np.flatnonzero((page == np.array(colour)).all(axis=2).any(axis=1))
        assert np.diff(rows).max() > 20  # once in the picture, once in the caption below it
    plain = np.asarray(contact_sheet([sample], 1, 400))
    assert not any(_count(plain, colour) for colour in strong)


def test_any_sample_has_a_card() -> None:
    tall = Sample("tall", (Image(np.zeros((300, 20, 3), np.uint8)),))
    wide = Sample("wide", (Image(np.zeros((1, 900, 3), np.uint8)),), captions=("",))
    clip = Sample("clip", (Video((Image(RED), Image(RED)), (0.0, 1.0)),), captions=("red twice",))
    text = Sample("text", (Text("only words", target=True),))
    page = contact_sheet([tall, wide, clip, text], columns=2, width=500)
    assert page.size[0] == 500
    assert _count(np.asarray(page), (250, 10, 10)) > 10_000


def test_scenes_make_a_sheet() -> None:
    page = contact_sheet(Scenes(8, size=192), columns=4, boxes=True)
    assert page.size[0] == 1600
    assert page.size[1] > 700


def test_impossible_sheets_are_errors() -> None:
    with pytest.raises(DataError, match="at least one sample"):
        contact_sheet([])
    for columns in (0, 50):
        with pytest.raises(DataError, match="columns"):
            contact_sheet([Sample("a", (Image(RED),))], columns=columns, width=600)
