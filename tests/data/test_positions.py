"""Positions on three axes; numbers worked out by hand from arXiv:2409.12191, section 2.1."""

import pytest
import torch

from chiasm.data.positions import three_axes


def image_tokens(text: str) -> torch.Tensor:
    """ "x" for a slot, "." for a word."""
    return torch.tensor([one == "x" for one in text])


def test_words_alone_stand_at_one_number_on_all_axes() -> None:
    assert three_axes(image_tokens("...."), []).tolist() == [[0, 1, 2, 3]] * 3
    assert three_axes(image_tokens(""), []).shape == (3, 0)


def test_a_picture_spans_height_and_width_and_words_go_on_behind_its_longer_side() -> None:
    assert three_axes(image_tokens("..xxxxxx.."), [(1, 2, 3)]).tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6],
    ]


def test_a_video_spans_time_too_and_pictures_may_touch() -> None:
    # 4 times of 1 x 2, then at once a picture of 2 x 1, then a word: 0 + 4 = 4, 4 + 2 = 6
    assert three_axes(image_tokens("xxxxxxxxxx."), [(4, 1, 2), (1, 2, 1)]).tolist() == [
        [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 6],
        [0, 0, 0, 0, 0, 0, 0, 0, 4, 5, 6],
        [0, 1, 0, 1, 0, 1, 0, 1, 4, 4, 6],
    ]


def test_slots_that_are_not_those_of_the_pictures_are_an_error() -> None:
    with pytest.raises(ValueError, match="3 image tokens are not those"):
        three_axes(image_tokens("xxx"), [(1, 2, 2)])
