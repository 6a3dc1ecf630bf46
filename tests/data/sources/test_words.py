"""Pages with rendered words: what is said of them is what stands on them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from chiasm.data.sample import Sample
from chiasm.data.sources.words import Words
from chiasm.errors import RecipeError

DIGITS = "0123456789"


def _pixels(sample: Sample) -> NDArray[np.int64]:
    return np.asarray(sample.image.decode()).astype(np.int64)


def _ink(sample: Sample) -> NDArray[np.bool_]:
    """(H, W): what is not paper, which the first pixel shows."""
    pixels = _pixels(sample)
    return np.abs(pixels - pixels[0, 0]).sum(2) > 30


def test_pages_follow_from_seed_and_index() -> None:
    pages = Words(count=6, seed=1, lines=(1, 3), height=96)
    again = Words(count=4, seed=1, lines=(1, 3), height=96)
    for at in (3, 0):
        assert np.array_equal(_pixels(pages[at]), _pixels(again[at]))
        assert pages[at].questions == again[at].questions
    assert pages[0].captions != Words(count=6, seed=2, lines=(1, 3), height=96)[0].captions
    assert len({page.captions for page in pages}) == 6
    with pytest.raises(IndexError):
        pages[6]


def test_all_ink_lies_inside_of_the_boxes_and_each_box_has_some() -> None:
    for page in Words(count=60, seed=5, width=128, height=96, lines=(1, 4), letters=14):
        height, width = _ink(page).shape
        assert (width, height) == (128, 96) == page.image.size
        left = _ink(page)
        for box in page.boxes:
            x0, y0, x1, y1 = (round(edge * side) for edge, side in zip(box.corners, (128, 96) * 2, strict=True))
            inside = left[y0:y1, x0:x1]
            assert inside.sum() > 8 * len(box.phrase)
            assert inside.any(0).sum() >= 3 * len(box.phrase), "as wide as its letters"
            inside[:] = False
        assert not left.any()


def test_questions_tell_what_each_line_says() -> None:
    for page in Words(count=40, seed=2, lines=(1, 3), height=96, alphabet=DIGITS, length=(2, 4)):
        words = page.captions[0].split()
        assert [question.answer for question in page.questions] == words == [box.phrase for box in page.boxes]
        tops = [box.corners[1] for box in page.boxes]
        assert tops == sorted(tops)
        assert all(2 <= len(word) <= 4 and set(word) <= set(DIGITS) for word in words)
        kinds = [question.kind for question in page.questions]
        assert kinds == (["one line"] if len(words) == 1 else ["first", "second", "third"][: len(words)])
        assert all(
            kind in question.text for kind, question in zip(kinds, page.questions, strict=True) if len(words) > 1
        )


def test_letters_and_places_are_drawn_evenly() -> None:
    pages = list(Words(count=400, seed=3, alphabet=DIGITS, length=(3, 3)))
    counts = np.bincount([int(digit) for page in pages for digit in page.captions[0]], minlength=10)
    assert counts.min() > 80  # 120 are expected of each, with a deviation of 10.4
    middles = np.array([[page.boxes[0].corners[0], page.boxes[0].corners[1]] for page in pages])
    assert (middles.std(0) > 0.15).all()
    aligned = [page.boxes[0].corners for page in Words(count=200, seed=3, letters=16, align="left")]
    lefts, tops = {round(box[0] * 192) for box in aligned}, {round(box[1] * 64) for box in aligned}
    assert lefts == {0, 1, 2}
    assert max(tops) - min(tops) == 4
    assert 10 < min(tops) < 25


def test_other_words_make_other_pixels() -> None:
    """The same page but for what is written: whoever reads has something to go by."""
    pages = [Words(count=1, seed=4, alphabet=one, length=(4, 4))[0] for one in ("1", "8")]
    assert _ink(pages[1]).sum() > 1.5 * _ink(pages[0]).sum()


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(RecipeError, match=r"need a page of \d+x\d+ pixels; it has 32x64"):
        Words(count=1, width=32)
    with pytest.raises(RecipeError, match="in 4 lines need a page"):
        Words(count=1, lines=(1, 4))
    with pytest.raises(RecipeError, match="hold no blanks"):
        Words(count=1, alphabet="a b")
    with pytest.raises(RecipeError, match="1 to 5, not"):
        Words(count=1, lines=(2, 1))
    with pytest.raises(RecipeError, match="fewest and the most letters"):
        Words(count=1, length=(0, 2))
    with pytest.raises(RecipeError, match="must not be negative"):
        Words(count=-1)
