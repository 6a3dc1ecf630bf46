"""Pixels beside those of transformers' and torchvision's own code, on photos and on sizes that nobody expects."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.data.image import Image
from chiasm.data.transforms import Augment, ImageTransform
from tests import peers
from tests.shared_data import shared_data

HALVES = (0.5, 0.5, 0.5)
CLIP = ImageTransform(224)
SIGLIP = ImageTransform(224, "squash", mean=HALVES, std=HALVES)


def _photos(count: int) -> Iterator[Path]:
    for name in ("flickr8k", "coco"):
        yield from sorted((shared_data(name) / "images").iterdir())[:count]


def _processor(transform: ImageTransform) -> Callable[[PIL.Image.Image], np.ndarray]:
    """transformers' own processor for these settings, giving grey levels."""
    assert peers  # its import lets transformers be imported beside a foreign torchvision
    transformers = importlib.import_module("transformers")
    size = transform.size
    if transform.resize == "crop":
        processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=size)
    else:
        processor = transformers.SiglipImageProcessorPil(size={"height": size, "width": size})

    def pixels_uint8(picture: PIL.Image.Image) -> np.ndarray:
        return transform.shown(processor(picture, return_tensors="pt")["pixel_values"][0]).astype(int)

    return pixels_uint8


@pytest.mark.parametrize("transform", [CLIP, SIGLIP], ids=["clip", "siglip"])
def test_photos_are_what_transformers_makes_of_them(transform: ImageTransform) -> None:
    theirs = _processor(transform)
    fast = replace(transform, asked_decoding="fast")
    for path in _photos(20):
        exact = transform.pixels_uint8(Image(path)).astype(int)
        with PIL.Image.open(path) as picture:
            assert np.abs(exact - theirs(picture.convert("RGB"))).max() <= 1, path.name
        assert np.abs(exact - fast.pixels_uint8(Image(path))).mean() < 3, path.name


@pytest.mark.parametrize("transform", [CLIP, SIGLIP], ids=["clip", "siglip"])
@settings(max_examples=30, deadline=None)
@given(width=st.integers(1, 700), height=st.integers(1, 700), seed=st.integers(0, 99))
def test_any_size_is_what_transformers_makes_of_it(
    transform: ImageTransform, width: int, height: int, seed: int
) -> None:
    small = replace(transform, size=32)
    _hold_beside(small, np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (7, 3000), (3000, 7), (225, 224), (2, 5)], ids=str)
@pytest.mark.parametrize("transform", [CLIP, SIGLIP], ids=["clip", "siglip"])
def test_extreme_sizes_are_what_transformers_makes_of_them(transform: ImageTransform, size: tuple[int, int]) -> None:
    small = replace(transform, size=64)
    _hold_beside(small, np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))


def _hold_beside(transform: ImageTransform, levels: np.ndarray) -> None:
    exact = transform.pixels_uint8(Image(levels)).astype(int)
    assert np.abs(exact - _processor(transform)(PIL.Image.fromarray(levels))).max() <= 1
    fast = replace(transform, asked_decoding="fast").pixels_uint8(Image(levels))
    assert np.abs(exact - fast).mean() < 1  # noise is the worst that resizing can meet


def test_what_would_not_fit_into_memory_is_never_scaled_whole() -> None:
    """1 x 40,000 pixels would be 224 x 9 million, 6 GB; its columns are constant, so one of them tells all."""
    levels = np.random.default_rng(0).integers(0, 256, (40_000, 1, 3), np.uint8)
    for decoding in ("exact", "fast"):
        seen = replace(CLIP, asked_decoding=decoding).pixels_uint8(Image(levels))
        assert seen.shape == (224, 224, 3)
        assert (seen == seen[:, :1]).all()
        middle = PIL.Image.fromarray(levels[19_990:20_010])  # scaled 224 times: the middle pixel and its halves around
        scaled = np.asarray(middle.resize((1, 20 * 224), PIL.Image.Resampling.BICUBIC))
        np.testing.assert_allclose(seen[:, 0].astype(int), scaled[10 * 224 - 112 : 10 * 224 + 112, 0], atol=1)


@pytest.mark.parametrize(
    "transform",
    [
        ImageTransform(64, resize_to=80),
        ImageTransform(64, resize_to=41, centre="even"),
        ImageTransform(64, "squash", resize_to=33),
        ImageTransform(64, "none"),
        ImageTransform(64, "none", centre="even"),
        ImageTransform(64, "pad", "bilinear", fill=(200, 100, 0)),
    ],
    ids=str,
)
def test_the_fast_path_takes_the_same_window(transform: ImageTransform) -> None:
    """The exact path is held beside transformers and open_clip where their settings are read."""
    fast = replace(transform, asked_decoding="fast")
    photos = [Image(path) for path in _photos(5)]
    blobs = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
    sizes = ((64, 64), (50, 90), (33, 40), (64, 20), (1, 1))
    scaled = [np.asarray(PIL.Image.fromarray(blobs).resize(size, PIL.Image.Resampling.BICUBIC)) for size in sizes]
    for image in (*photos, *map(Image, scaled)):
        assert np.abs(transform.pixels_uint8(image).astype(int) - fast.pixels_uint8(image)).mean() < 3, image


def test_a_long_picture_that_is_scaled_below_the_window_is_framed() -> None:
    levels = np.full((1_200_000, 1, 3), 255, np.uint8)
    for decoding in ("exact", "fast"):
        seen = replace(CLIP, size=32, resize_to=10, asked_decoding=decoding).pixels_uint8(Image(levels))
        assert (seen[:, 11:21] == 255).all()
        assert (seen[:, :11] == 0).all()
        assert (seen[:, 21:] == 0).all()


@pytest.mark.parametrize("area", [(0.9, 1.0), (0.05, 1.0)], ids=str)
def test_random_crops_are_what_torchvision_makes_of_them(area: tuple[float, float]) -> None:
    peers.open_clip()  # skips where torchvision is absent
    torchvision = importlib.import_module("torchvision.transforms.functional")
    transform = ImageTransform(224, augment=Augment(area, flip=0.5))
    assert transform.augment is not None
    fast, off = replace(transform, decoding="fast"), []
    for seed, path in enumerate(_photos(25)):
        exact = transform.pixels_uint8(Image(path), np.random.default_rng(seed)).astype(int)
        with PIL.Image.open(path) as opened:
            picture = opened.convert("RGB")
        box, mirrored = transform.augment.drawn(picture.size, np.random.default_rng(seed))
        left, top, right, bottom = box
        bicubic = torchvision.InterpolationMode.BICUBIC
        theirs = torchvision.resized_crop(picture, top, left, bottom - top, right - left, [224, 224], bicubic)
        theirs = torchvision.hflip(theirs) if mirrored else theirs
        assert np.abs(exact - np.asarray(theirs)).max() <= 1, path.name
        off.append(np.abs(exact - fast.pixels_uint8(Image(path), np.random.default_rng(seed))).mean())
    assert max(off) < 3


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 3000), height=st.integers(1, 3000), seed=st.integers(0, 999))
def test_random_crops_lie_in_their_picture(width: int, height: int, seed: int) -> None:
    (left, top, right, bottom), _ = Augment((0.05, 1.0)).drawn((width, height), np.random.default_rng(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_large_photos_are_decoded_at_a_reduced_size_and_stay_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos scaled up and saved anew, so that every reduced size is met."""
    from chiasm.data import decoding

    seen: set[int] = set()
    whole = decoding.Jpeg.pixels_uint8

    def pixels_uint8(self: decoding.Jpeg, eighths: int) -> np.ndarray:
        seen.add(eighths)
        return whole(self, eighths)

    monkeypatch.setattr(decoding.Jpeg, "pixels_uint8", pixels_uint8)
    exact, fast = ImageTransform(96), ImageTransform(96, asked_decoding="fast")
    for path in list(_photos(4)):
        with PIL.Image.open(path) as picture:
            for scale in (1, 2, 4, 8):
                size = (picture.width * scale, picture.height * scale)
                image = Image(_saved(picture.convert("RGB").resize(size, PIL.Image.Resampling.BICUBIC)))
                difference = exact.pixels_uint8(image).astype(int) - fast.pixels_uint8(image)
                assert np.abs(difference).mean() < 3
    assert seen >= {1, 2, 4, 8}


def _saved(picture: PIL.Image.Image) -> bytes:
    import io

    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=92)
    return buffer.getvalue()
