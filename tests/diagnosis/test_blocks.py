from __future__ import annotations

import io

import numpy as np
from rich.console import Console

from chiasm.diagnosis.blocks import blocks
from chiasm.diagnosis.histogram import histogram
from chiasm.diagnosis.spans import collapsed


def test_two_pixels_a_character() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[0] = (255, 0, 0)
    image[1] = (0, 0, 255)
    file = io.StringIO()
    Console(file=file, force_terminal=True, color_system="truecolor", width=40).print(blocks(image, 4))
    first = file.getvalue().splitlines()[0]
    assert first.count("▀") == 4
    assert "38;2;255;0;0" in first, "the upper pixel is the ink"
    assert "48;2;0;0;255" in first, "the lower pixel is the ground"


def test_a_histogram_counts_everything_once() -> None:
    values = np.asarray([1, 1, 1, 2, 9, 30])
    lines = histogram(values, bins=3, limit=20)
    assert [int(line.removesuffix("  beyond the limit").split()[-1]) for line in lines] == [5, 0, 1]
    assert [line.endswith("beyond the limit") for line in lines] == [False, False, True]
    assert len(histogram(np.asarray([7, 7]))) == 1


def test_image_tokens_are_shortened_to_their_number() -> None:
    text = "user: <i><i><i> and <i><i> what? assistant: a cat"
    pieces = collapsed(text, [(text.index("a cat"), len(text))], "<i>")
    assert [(piece.text, piece.kind) for piece in pieces] == [
        ("user: ", "read"),
        ("<i> x 3", "picture"),
        (" and ", "read"),
        ("<i> x 2", "picture"),
        (" what? assistant: ", "read"),
        ("a cat", "learned"),
    ]
