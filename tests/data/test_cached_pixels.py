"""What is stored of a picture: the pixels of the exact path, whatever becomes of them afterwards."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from chiasm.data.cache import ImageCache
from chiasm.data.crop import Crop
from chiasm.data.image import Image
from chiasm.data.processor import PairProcessor
from chiasm.data.reader import Reader
from chiasm.data.sample import Sample
from chiasm.data.transforms import Augment, ImageTransform
from chiasm.errors import RecipeError
from tests.data.cached import AUGMENTED, TRANSFORM, Jpegs, filled, jpeg, source_of
from tests.worlds import tiny_processor


def test_random_crops_are_cut_from_the_picture_at_the_side_asked_for(tmp_path: Path) -> None:
    source = source_of()
    decoded = filled(source, tmp_path, AUGMENTED)
    assert [decoded[i].image.size for i in (0, 19)] == [
        (round(60 * 37 / 44), 37),
        (round(79 * 37 / 44), 37),
    ]  # 8/7 * 32
    assert filled(source, tmp_path, AUGMENTED, side=100)[3].image.size == (63, 44)  # never enlarged
    near = replace(AUGMENTED, augment=Augment((1.0, 1.0), aspect=(15 / 11, 15 / 11)))  # the whole of sample 0
    ours = near.pixels_uint8(decoded[0].image, np.random.default_rng(0)).astype(int)
    theirs = near.pixels_uint8(source[0].image, np.random.default_rng(0))
    assert np.abs(ours - theirs).mean() < 3  # it was resized twice


def test_crops_drawn_beforehand_are_those_of_the_exact_path(tmp_path: Path, decodings: list[str]) -> None:
    source = source_of()
    transform = replace(AUGMENTED, decoding="fast")  # what is stored is exact all the same
    decoded = filled(source, tmp_path, transform, crops=4)
    assert decoded.images.bytes == 20 * 4 * 32 * 32 * 3
    for index in (0, 19):
        image = source.samples[index].image
        drawn = [AUGMENTED.pixels_uint8(image, np.random.default_rng([int(image.key, 16), at])) for at in range(4)]
        assert len({one.tobytes() for one in drawn}) == 4
        taken = [transform.pixels_uint8(decoded[index].image, np.random.default_rng(at)) for at in range(40)]
        assert {one.tobytes() for one in taken} == {one.tobytes() for one in drawn}  # all of them, and nothing else
        assert np.array_equal(transform.pixels_uint8(decoded[index].image), drawn[0])
    pixels = [
        batch.images.pixels
        for threads in (1, 3)
        for batch in islice(
            Reader(decoded, PairProcessor(transform, tiny_processor().tokenizer), 5, threads=threads), 9
        )
        if batch.images is not None
    ]
    assert len(pixels) == 18
    assert all(torch.equal(one, other) for one, other in zip(pixels[:9], pixels[9:], strict=True))
    assert len(decodings) == 20
    filled(source, tmp_path, transform, crops=4)
    assert len(decodings) == 20
    filled(source, tmp_path, transform, crops=5)
    assert len(decodings) == 40


def test_crops_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"either side or crops"):
        ImageCache(tmp_path, side=40, crops=4)
    with pytest.raises(RecipeError, match=r"at least 1, not 0"):
        ImageCache(tmp_path, crops=0)
    with pytest.raises(RecipeError, match=r"no 'augment', so there are no crops"):
        filled(source_of(), tmp_path, crops=4)


@pytest.mark.parametrize(
    "transform",
    [
        ImageTransform(32, resize_to=40),
        ImageTransform(32, "squash", resize_to=24, centre="even"),
        ImageTransform(32, "none"),
        ImageTransform(32, "pad", fill=(1, 2, 3)),
    ],
    ids=lambda transform: transform.resize,
)
def test_every_way_of_resizing_is_kept(transform: ImageTransform, tmp_path: Path) -> None:
    """Also of pictures that have the transform's size before: they are scaled as others are, and once."""
    square = Image(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    source = Jpegs((replace(source_of(1).samples[0], parts=(square,)), *source_of(3).samples))
    decoded = filled(source, tmp_path, transform)
    for index in range(4):
        assert torch.equal(transform(decoded[index].image), transform(source[index].image))


def test_parts_of_pictures_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    whole = Image.decode

    def counted(self: Image, at_least: int | None = None) -> PIL.Image.Image:
        opened.append(self.name)
        return whole(self, at_least)

    monkeypatch.setattr(Image, "decode", counted)
    corners = ((0, 0, 30, 20), (10, 5, 70, 60))
    samples = tuple(Sample(f"{i}", (Crop(Image(jpeg(0)), one),), captions=("a part",)) for i, one in enumerate(corners))
    decoded = filled(Jpegs(samples), tmp_path)
    assert len(opened) == 2
    for index, one in enumerate(corners):
        cut = np.asarray(PIL.Image.open(io.BytesIO(jpeg(0))).convert("RGB").crop(one))
        assert np.array_equal(decoded[index].image.pixels_uint8(), TRANSFORM.pixels_uint8(Image(cut)))
        fast = replace(TRANSFORM, asked_decoding="fast").pixels_uint8(samples[index].image).astype(int)
        assert np.abs(fast - TRANSFORM.pixels_uint8(samples[index].image)).mean() < 1
