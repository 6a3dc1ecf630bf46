from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch

from chiasm.data.image import Image
from chiasm.data.transforms import Augment, ImageTransform

RANDOM = Image(np.random.default_rng(0).integers(0, 255, (48, 80, 3), np.uint8))


def test_pixels_are_normalised_by_mean_and_deviation() -> None:
    grey = Image(np.full((8, 8, 3), 51, np.uint8))
    pixels = ImageTransform(8, mean=(0.1, 0.2, 0.3), std=(0.1, 0.5, 1.0))(grey)
    expected = torch.tensor([(0.2 - 0.1) / 0.1, 0.0, -0.1])[:, None, None].expand(3, 8, 8)
    torch.testing.assert_close(pixels, expected)


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
def test_every_way_gives_the_size_and_can_be_shown_again(resize: str) -> None:
    transform = ImageTransform(32, resize=resize)  # type: ignore[arg-type]
    pixels = transform(RANDOM)
    assert pixels.shape == (3, 32, 32)
    shown = transform.shown(pixels)
    torch.testing.assert_close(transform.normalised(shown), pixels)


def test_crop_takes_the_middle_and_pad_keeps_all() -> None:
    levels = np.zeros((40, 80, 3), np.uint8)
    levels[:, 20:60] = 255  # the middle square is white
    assert ImageTransform(40, mean=(0, 0, 0), std=(1, 1, 1))(Image(levels)).min() == 1.0
    padded = ImageTransform(40, resize="pad", mean=(0.5, 0.5, 0.5), std=(1, 1, 1))(Image(levels))
    assert padded[:, :10].abs().max() < 0.01  # above the picture: the mean colour
    assert padded[:, 20, 0].max() == -0.5  # its left end is still there, black


def test_augmentation_is_drawn_and_repeats_with_its_seed() -> None:
    transform = ImageTransform(32, augment=Augment(area=(0.3, 1.0), flip=0.5))
    views = [transform(RANDOM, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    assert torch.equal(transform(RANDOM), ImageTransform(32)(RANDOM))  # none in evaluation


def test_random_crops_cover_the_area_asked_for() -> None:
    """A picture whose grey level is its column: a crop's range of levels tells its width."""
    columns = np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (200, 1, 3))
    transform = ImageTransform(64, mean=(0, 0, 0), std=(1, 1, 1), augment=Augment(area=(0.25, 0.25), aspect=(1, 1)))
    for seed in range(10):
        levels = transform(Image(columns), np.random.default_rng(seed)) * 255
        assert 96 <= float(levels.max() - levels.min()) <= 102  # half the width, a quarter of the area


def test_mirroring_happens_as_often_as_asked() -> None:
    halves = np.zeros((16, 16, 3), np.uint8)
    halves[:, 8:] = 255
    transform = ImageTransform(16, augment=Augment(area=(1, 1), aspect=(1, 1), flip=0.25))
    mirrored = sum(bool(transform(Image(halves), np.random.default_rng(s))[0, 0, 0] > 0) for s in range(400))
    assert abs(mirrored - 100) < 5 * (400 * 0.25 * 0.75) ** 0.5


def test_pixels_agree_with_pillow_on_an_even_size() -> None:
    picture = RANDOM.decode().resize((53, 32), PIL.Image.Resampling.BICUBIC).crop((10, 0, 42, 32))
    transform = ImageTransform(32)
    assert np.array_equal(transform.shown(transform(RANDOM)), np.asarray(picture))
