"""Pixels: ours against transformers' image processors (the ones on PIL), on real photos and on odd modes."""

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import transformers

from chiasm.data.image import Image
from chiasm.data.transforms import ImageTransform
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.transformers._pixels import read_pixels, write_pixels
from tests.weights import tiny

SIDE = 56
CROP = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
SQUASH = {"size": {"height": SIDE, "width": SIDE}}


def both(
    kind: type[Any], settings: dict[str, Any], folder: Path, picture: Path, given: PIL.Image.Image
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ours from the file, and theirs from `given`."""
    peer = kind(**settings)
    peer.save_pretrained(folder)
    ours = read_pixels(CheckpointFolder(folder), SIDE)
    return ours(Image(picture)), peer(given, return_tensors="pt")["pixel_values"][0]


def opened(file: Path) -> PIL.Image.Image:
    with PIL.Image.open(file) as picture:
        picture.load()
    return picture


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (transformers.CLIPImageProcessorPil, CROP),
        (transformers.CLIPImageProcessorPil, {**CROP, "resample": 2}),
        (transformers.CLIPImageProcessorPil, {**CROP, "resample": 1, "do_normalize": False}),
        (transformers.CLIPImageProcessorPil, {**SQUASH, "do_center_crop": False}),
        (transformers.CLIPImageProcessorPil, {**SQUASH, "crop_size": {"height": SIDE, "width": SIDE}}),
        (transformers.SiglipImageProcessorPil, SQUASH),
        (transformers.SiglipImageProcessorPil, {**SQUASH, "resample": 2, "rescale_factor": 1 / 127.5}),
        (transformers.SiglipImageProcessorPil, {**SQUASH, "do_rescale": False, "image_mean": [120.0, 110.0, 100.0]}),
    ],
)
def test_photos(kind: type[Any], settings: dict[str, Any], tmp_path: Path) -> None:
    """Every way of resizing, filter and scale: equal to float precision, which is far below one grey level."""
    for photo in tiny.photos():
        ours, theirs = both(kind, settings, tmp_path, photo, opened(photo))
        assert (ours - theirs).abs().max() <= 1e-5 * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        # timm's way: scale a little larger, take the middle.
        (transformers.CLIPImageProcessorPil, {**CROP, "size": {"shortest_edge": 65}}),
        (transformers.CLIPImageProcessorPil, {**CROP, "size": {"height": 64, "width": 64}, "do_center_crop": True}),
        # More is taken than there is: black around it.
        (transformers.CLIPImageProcessorPil, {**CROP, "size": {"shortest_edge": 41}}),
        (transformers.CLIPImageProcessorPil, {**CROP, "size": {"height": 33, "width": 33}, "do_center_crop": True}),
        (transformers.CLIPImageProcessorPil, {**CROP, "do_resize": False}),
        (transformers.CLIPImageProcessorPil, {**CROP, "do_convert_rgb": False, "do_rescale": False}),
    ],
)
def test_other_sizes_before_the_middle_is_taken(kind: type[Any], settings: dict[str, Any], tmp_path: Path) -> None:
    for photo in tiny.photos(6):
        ours, theirs = both(kind, settings, tmp_path, photo, opened(photo))
        assert (ours - theirs).abs().max() <= 1e-5 * max(1.0, float(theirs.abs().max()))
    transform = read_pixels(CheckpointFolder(tmp_path), SIDE)
    again = tmp_path / "again"
    again.mkdir()
    if settings.get("do_rescale", True):
        write_pixels(transform, "CLIP", again)
        assert read_pixels(CheckpointFolder(again), SIDE) == transform


def test_a_small_picture_that_is_not_resized_is_framed(tmp_path: Path) -> None:
    """Both odd and even rests, and one side too short while the other is too long."""
    for at, size in enumerate(((40, 41), (41, 90), (90, 40), (55, 57))):
        file = tmp_path / f"{at}.png"
        opened(tiny.photos(1)[0]).resize(size).save(file)
        settings = {**CROP, "do_resize": False}
        ours, theirs = both(transformers.CLIPImageProcessorPil, settings, tmp_path, file, opened(file))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_wrong_filter_would_be_seen(tmp_path: Path) -> None:
    photo = tiny.photos()[0]
    ours, _ = both(transformers.CLIPImageProcessorPil, CROP, tmp_path, photo, opened(photo))
    _, other = both(transformers.CLIPImageProcessorPil, {**CROP, "resample": 2}, tmp_path, photo, opened(photo))
    assert (ours - other).abs().max() > 1 / 255 / min(ImageTransform().std)


def odd(mode: str, folder: Path) -> Path:
    """A photo in another mode; where the mode has transparency, from none on the left to full on the right."""
    photo = opened(tiny.photos()[0])
    file = folder / f"{mode}.png"
    if mode in ("RGBA", "LA"):
        photo = photo.convert(mode[:-1])
        ramp = np.linspace(255, 0, photo.width).astype(np.uint8)
        photo.putalpha(PIL.Image.fromarray(np.tile(ramp, (photo.height, 1))))
        photo.save(file)
    elif mode == "transparent P":
        reduced = photo.quantize(16)
        darkest = int(np.asarray(reduced).flat[np.asarray(photo.convert("L")).argmin()])
        reduced.save(file, transparency=darkest)
    else:
        photo.convert(mode).save(file)
    return file


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "LA", "transparent P"])
def test_every_mode_agrees(mode: str, tmp_path: Path) -> None:
    """transformers, like us, lays transparency on white; older versions of it showed the colours hidden below."""
    file = odd(mode, tmp_path)
    assert opened(file).mode == mode.removeprefix("transparent ")
    ours, theirs = both(transformers.CLIPImageProcessorPil, CROP, tmp_path, file, opened(file))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["RGBA", "transparent P"])
def test_transparency_is_seen(mode: str, tmp_path: Path) -> None:
    """The picture would be another one if its transparency were dropped."""
    file = odd(mode, tmp_path)
    ours, dropped = both(
        transformers.CLIPImageProcessorPil, CROP, tmp_path, file, opened(file).convert("RGBA").convert("RGB")
    )
    assert (ours - dropped).abs().max() > 0.5


@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_what_we_write_is_what_we_do(resize: Any, tmp_path: Path) -> None:
    transform = ImageTransform(SIDE, resize, "lanczos", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    write_pixels(transform, "CLIP", tmp_path)
    peer = transformers.CLIPImageProcessorPil.from_pretrained(tmp_path)
    for photo in tiny.photos():
        theirs = peer(opened(photo), return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(transform(Image(photo)), theirs, atol=1e-5, rtol=1e-5)
    assert read_pixels(CheckpointFolder(tmp_path), SIDE) == transform


def test_the_oldest_layout(tmp_path: Path) -> None:
    """OpenAI's own file: sizes are numbers, and nothing is said of rescaling."""
    (tmp_path / "preprocessor_config.json").write_text(
        '{"crop_size": 56, "do_center_crop": true, "do_normalize": true, "do_resize": true, '
        '"feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.48145466, 0.4578275, 0.40821073], '
        '"image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3, "size": 56}'
    )
    assert read_pixels(CheckpointFolder(tmp_path), SIDE) == ImageTransform(SIDE)
