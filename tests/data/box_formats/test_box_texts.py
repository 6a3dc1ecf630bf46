"""Conventions of boxes in text: round trips, what is unclear, and the numbers of transformers' own functions."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers.models.florence2.processing_florence2 import Florence2PostProcessor
from transformers.models.kosmos2 import processing_kosmos2 as peer

from chiasm.config import dump, parse
from chiasm.data.box_format import BoxFormat, Corners, Size
from chiasm.data.box_formats.floats import Floats
from chiasm.data.box_formats.kosmos import Kosmos
from chiasm.data.box_formats.location_tokens import LocationTokens
from chiasm.data.box_formats.paligemma import PaliGemma
from chiasm.data.image import Image
from chiasm.data.sample import Box, GroundedSpan, Sample, Text
from chiasm.errors import DataError

NAMES = BoxFormat.names()
# What a bin is, as a share of the frame.
BINS = {
    "kosmos": 1 / 32,
    "qwen_vl": 1e-3,
    "qwen2_vl": 1e-3,
    "internvl": 1e-3,
    "minigpt_v2": 1e-2,
    "floats": 1e-3,
    "location_tokens": 1e-3,
    "paligemma": 1 / 1024,
}
PUBLISHED = {
    "kosmos": "<phrase>a ball</phrase><object><patch_index_0044><patch_index_0863></object>",
    "qwen_vl": "<ref>a ball</ref><box>(120,44),(563,998)</box>",
    "qwen2_vl": "<|object_ref_start|>a ball<|object_ref_end|><|box_start|>(120,44),(563,998)<|box_end|>",
    "internvl": "<ref>a ball</ref><box>[[120, 44, 563, 998]]</box>",
    "minigpt_v2": "<p>a ball</p> {<12><4><56><99>}",
    "floats": "a ball [0.120, 0.044, 0.563, 0.998]",
    "location_tokens": "a ball<loc_120><loc_44><loc_563><loc_998>",
    "paligemma": "<loc0044><loc0120><loc0998><loc0563> a ball",
}
HALVES = {  # of those, what is broken: cut off, turned round, out of range
    "kosmos": ["<object><patch_index_0044>", "<object><patch_index_0863><patch_index_0044></object>",
               "<object><patch_index_0001><patch_index_1024></object>"],
    "qwen_vl": ["<box>(120,44),(563,9", "<box>(563,44),(120,998)</box>", "<box>(120,44),(563,1998)</box>"],
    "qwen2_vl": ["<|box_start|>(120,44),(563,9", "<|box_start|>(563,44),(120,998)<|box_end|>"],
    "internvl": ["<box>[[120, 44, 563", "<box>[[563, 44, 120, 998]]</box>", "<box>[120, 44, 563, 998]</box>"],
    "minigpt_v2": ["{<12><4><56>", "{<56><4><12><99>}", "{<12><4><56><199>}"],
    "floats": ["[0.120, 0.044, 0.5", "[0.9, 0.1, 0.2, 0.8]", "[120, 44, 563, 998]", "[?]"],
    "location_tokens": ["<loc_120><loc_44><loc_563>", "<loc_563><loc_44><loc_120><loc_998>",
                        "<loc_1><loc_2><loc_3><loc_4><loc_5>", "<loc_1><loc_2><loc_30><loc_1400>"],
    "paligemma": ["<loc0044><loc0120><loc0998>", "<loc0998><loc0120><loc0044><loc0563>",
                  "<loc0044><loc0120><loc0998><loc1563>"],
}  # fmt: skip


def convention(name: str) -> BoxFormat:
    return parse(BoxFormat, name)  # type: ignore[type-abstract]  # a subclass


def sample_of(text: Text, size: Size = (30, 20)) -> Sample:
    return Sample("a/7", (Image(np.zeros((size[1], size[0], 3), np.uint8)), text))


@st.composite
def boxes(draw: st.DrawFn, least: float = 0.002) -> Corners:
    sides = []
    for _ in range(2):
        low = draw(st.floats(0, 1 - least))
        sides.append((low, draw(st.floats(low + least, 1))))
    return sides[0][0], sides[1][0], sides[0][1], sides[1][1]


def test_the_walk_finds_the_conventions() -> None:
    assert set(NAMES) == BINS.keys() == PUBLISHED.keys() == HALVES.keys()


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(given_boxes=st.lists(boxes(), min_size=1, max_size=3), square=st.booleans())
def test_boxes_come_back_within_half_a_bin(name: str, given_boxes: list[Corners], square: bool) -> None:
    """And within a whole one where there is no nearer writing: at the far edge, of what is thinner than two bins."""
    spelling = replace(convention(name), frame="square" if square else "picture")
    size = (300, 200)
    phrase = "a red ball"
    mention = GroundedSpan((8, 18), tuple(Box(corners, phrase) for corners in given_boxes))
    text = spelling.written(sample_of(Text("This is a red ball, see?", grounded_spans=(mention,)), size)).texts[0].text
    found = spelling.read(text, size)
    assert not found.unclear
    assert len(found.boxes) == len(given_boxes)
    if spelling.around[0]:
        assert found.text[slice(*found.grounded_spans[0].span)] == phrase
    if name != "paligemma":  # which turns the order about
        assert "".join(found.text.split()) == "Thisisaredball,see?"
    bins = (BINS[name], BINS[name] * 1.5) if square else (BINS[name],) * 2  # a square has the longer side on both axes
    for before, after in zip(given_boxes, found.boxes, strict=True):
        for axis, one in enumerate(bins):
            (low, high), (again_low, again_high) = before[axis::2], after.corners[axis::2]
            clear = high - low > 2 * one and high < 1 - one
            thin = name == "kosmos" and any(before[at + 2] - before[at] < 2 * bins[at] for at in (0, 1))
            room = (0.5 if clear and not thin else 1.001) * one + 1e-9
            assert abs(low - again_low) <= room
            assert abs(high - again_high) <= room


@pytest.mark.parametrize("name", NAMES)
def test_it_is_written_as_published(name: str) -> None:
    spelling = replace(convention(name), frame="picture")
    written = PUBLISHED[name]
    (mention,) = spelling.read(written).grounded_spans
    assert (spelling.mention("a ball", [one.corners for one in mention.boxes])) == written
    assert mention.boxes[0].phrase in ("a ball", "")
    assert spelling.read(f" It is {written} there.").boxes[0].corners == mention.boxes[0].corners


@pytest.mark.parametrize(("name", "half"), [(name, half) for name, several in HALVES.items() for half in several])
def test_what_is_unclear_is_told_and_never_guessed(name: str, half: str) -> None:
    spelling = convention(name)
    found = spelling.read(f"there {half}", (10, 10))
    assert found.boxes == ()
    assert len(found.unclear) == 1
    assert found.text == "there"
    both = spelling.read(f"{PUBLISHED[name]} and {half}", (10, 10))
    assert len(both.boxes) == 1
    assert len(both.unclear) == 1
    assert spelling.read("It is 12 years old (or 13), see page 4.").unclear == ()


@pytest.mark.parametrize("name", NAMES)
def test_a_phrase_that_is_asked_about_is_marked_alone(name: str) -> None:
    spelling = convention(name)
    asked = sample_of(Text("Where is the ball?", grounded_spans=(GroundedSpan((9, 17)),)))
    before, behind = spelling.around
    assert spelling.written(asked).texts[0].text == f"Where is {before}the ball{behind}?"
    assert parse(BoxFormat, dump(spelling)) == spelling  # type: ignore[type-abstract]


def test_a_box_without_a_place_is_an_error_that_names_the_sample() -> None:
    spelling = Kosmos()
    box = Box((0.1, 0.1, 0.5, 0.5), "ball", image=1)
    with pytest.raises(DataError, match=r"'a/7'.*lies in picture 1, but there are 1"):
        spelling.written(sample_of(Text("a ball", grounded_spans=(GroundedSpan((2, 6), (box,)),))))
    with pytest.raises(DataError, match=r"'a/7'.*\(2, 9\)"):
        spelling.written(sample_of(Text("a ball", grounded_spans=(GroundedSpan((2, 9)),))))
    twice = (GroundedSpan((0, 6)), GroundedSpan((2, 6)))
    with pytest.raises(DataError, match="belong to the mention before"):
        spelling.written(sample_of(Text("a ball", grounded_spans=twice)))
    with pytest.raises(DataError, match="not inside its picture"):
        Box((0.1, 0.1, 1.5, 0.5), "ball")


@pytest.mark.parametrize("name", NAMES)
def test_a_speck_in_the_far_corner_keeps_within_the_numbers(name: str) -> None:
    """Where both ends fall into one bin the box is widened, towards the near side at the far edge."""
    spelling = replace(convention(name), frame="picture")
    written = spelling.write([(0.9999, 0.9999, 1.0, 1.0)])
    tops = {
        "qwen_vl": 999,
        "qwen2_vl": 999,
        "paligemma": 1023,
        "location_tokens": 999,
        "kosmos": 1023,
        "minigpt_v2": 100,
    }
    assert all(float(one) <= tops.get(name, 1000) for one in re.findall(r"[\d.]+", written))
    (box,) = spelling.read(written).boxes
    assert min(box.corners) > 1 - 2.1 * BINS[name]


def test_the_whole_picture_has_the_largest_numbers() -> None:
    whole = {
        "qwen_vl": "<box>(0,0),(999,999)</box>",
        "internvl": "<box>[[0, 0, 1000, 1000]]</box>",
        "minigpt_v2": "{<0><0><100><100>}",
        "floats": "[0.000, 0.000, 1.000, 1.000]",
        "paligemma": "<loc0000><loc0000><loc1023><loc1023>",
    }
    for name, written in whole.items():
        assert convention(name).write([(0.0, 0.0, 1.0, 1.0)]) == written


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("qwen_vl", "<box>(1,2),(30,40)</box><box>(563,44),(120,998)</box>"),
        ("internvl", "<box>[[1, 2, 30, 40], [563, 44, 120, 998]]</box>"),
        ("minigpt_v2", "{<1><2><30><40><delim><56><4><12><99>}"),
        ("floats", "[0.1, 0.2, 0.3, 0.4; 0.9, 0.1, 0.2, 0.8]"),
        ("location_tokens", "<loc_1><loc_2><loc_30><loc_40><loc_563><loc_44><loc_120><loc_998>"),
    ],
)
def test_a_phrase_with_one_box_that_says_none_is_unclear_as_a_whole(name: str, run: str) -> None:
    found = convention(name).read(run)
    assert (found.boxes, found.unclear) == ((), (run,))


# --- the peers


@given(corners=boxes(), side=st.sampled_from([8, 32]))
@settings(max_examples=200, deadline=None)
def test_cells_are_those_of_transformers(corners: Corners, side: int) -> None:
    pair = peer.coordinate_to_patch_index(corners, side)
    written = Kosmos(side=side).write([corners])
    assert written == "<object>" + "".join(f"<patch_index_{one:04d}>" for one in pair) + "</object>"
    (found,) = Kosmos(side=side).parse(written)
    assert found == pytest.approx(peer.patch_index_to_coordinate(*pair, side), abs=1e-12)


TALK = (
    (
        "<grounding> An image of<phrase> a snowman</phrase><object><patch_index_0044><patch_index_0863></object> "
        "warming himself by<phrase> a fire</phrase><object><patch_index_0005><patch_index_0911></object>."
    ),
    (
        "<grounding>  Two<phrase> dogs </phrase><object><patch_index_0001><patch_index_0043>"
        "</delimiter_of_multi_objects/><patch_index_0320><patch_index_0983></object> run "
    ),
    "<phrase>it</phrase><object><patch_index_0033><patch_index_0033></object>",
    "<grounding> nothing to see",
)


@pytest.mark.parametrize("text", TALK)
def test_replies_are_read_as_transformers_reads_them(text: str) -> None:
    caption, entities = peer.clean_text_and_extract_entities_with_bboxes(text)
    found = Kosmos().read(text)
    assert found.text == caption
    assert [(found.text[slice(*one.span)], one.span) for one in found.grounded_spans] == [one[:2] for one in entities]
    for ours, (_, _, theirs) in zip(found.grounded_spans, entities, strict=True):
        assert [box.corners for box in ours.boxes] == [pytest.approx(one, abs=1e-12) for one in theirs]
    indices = peer.extract_entities_with_patch_indices(text)
    assert [len(one.boxes) for one in found.grounded_spans] == [len(one[2]) for one in indices]


@given(corners=boxes(least=0.01))
@settings(max_examples=100, deadline=None)
def test_bins_are_those_of_florence_2(corners: Corners) -> None:
    # On the edge of a bin their float64 is not ours: they go through pixels.
    assume(all(one == 0 or abs(one * 1000 - round(one * 1000)) > 1e-6 for one in corners))

    class Plain:
        all_special_tokens = ()

    theirs = Florence2PostProcessor({}, Plain())
    size = (640, 480)
    pixels = torch.tensor([[one * size[at % 2] for at, one in enumerate(corners)]], dtype=torch.float64)
    bins = theirs.quantize(pixels, size)
    spelling = LocationTokens()
    written = spelling.mention("a ball", [corners])
    assert written == "a ball" + "".join(f"<loc_{int(one)}>" for one in bins[0])
    (again,) = theirs.parse_phrase_grounding_from_text_and_spans(written, size)
    assert again["cat_name"] == "a ball"
    found = spelling.read(written).boxes[0].corners
    assert again["bbox"] == [[int(one * size[at % 2] + 1e-6) for at, one in enumerate(found)]]


def test_paligemma_tells_y_before_x_and_boxes_one_by_one() -> None:
    first, second = (0.25, 0.5, 0.75, 0.625), (0.0, 0.125, 1.0, 0.25)
    written = PaliGemma().mention("cat", [first, second])
    assert written == "<loc0512><loc0256><loc0640><loc0768> cat ; <loc0128><loc0000><loc0256><loc1023> cat"
    found = PaliGemma().read(written).boxes
    assert [box.phrase for box in found] == ["cat", "cat"]
    assert found[0].corners == first


def test_a_square_frame_means_the_padded_picture() -> None:
    """LLaVA 1.5 pads 400 x 200 to 400 x 400, 100 rows of which lie above: the upper half begins at a quarter."""
    spelling = Floats(digits=2)
    box = Box((0.5, 0.0, 1.0, 0.5), "ball")
    written = (
        spelling.written(sample_of(Text("", grounded_spans=(GroundedSpan((0, 0), (box,)),)), (400, 200))).texts[0].text
    )
    assert written == "[0.50, 0.25, 1.00, 0.50]"
    assert spelling.read(written, (400, 200)).boxes[0].corners == box.corners
    wide, tall = (Image(np.zeros((high, across, 3), np.uint8)) for across, high in ((400, 200), (100, 400)))
    second = Text("", grounded_spans=(GroundedSpan((0, 0), (replace(box, image=1),)),))
    assert spelling.written(Sample("b", (wide, tall, second))).texts[0].text == "[0.50, 0.00, 0.62, 0.50]"
    half_outside = spelling.read("[0.50, 0.00, 1.00, 0.50]", (400, 200))
    assert half_outside.boxes[0].corners == box.corners  # padding is no part of the picture
    assert spelling.read("[0.50, 0.00, 1.00, 0.20]", (400, 200)).unclear == ("[0.50, 0.00, 1.00, 0.20]",)


def test_two_neighbouring_boxes_are_two() -> None:
    for name, gap in itertools.product(NAMES, ("", " and ")):
        if name == "location_tokens" and not gap:
            continue  # these tokens would be several boxes of one phrase
        found = convention(name).read(PUBLISHED[name] + gap + PUBLISHED[name], (8, 8))
        assert len(found.boxes) == 2, (name, gap)
        assert not found.unclear
