from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from chiasm.data.decoding import MAX_PIXELS
from chiasm.data.image import Image
from chiasm.data.processor import PairProcessor
from chiasm.data.transforms import ImageTransform
from chiasm.errors import DataError, MissingExtra
from tests.shared_data import shared_data

GREYS = np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8)
SMOOTH = np.asarray(PIL.Image.fromarray(GREYS).resize((195, 135), PIL.Image.Resampling.BICUBIC))  # a picture of blobs
EXACT = ImageTransform(64)
FAST = replace(EXACT, asked_decoding="fast")


def _encoded(picture: PIL.Image.Image, **how: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **how)  # type: ignore[arg-type]
    return buffer.getvalue()


def _jpeg(**how: object) -> bytes:
    return _encoded(PIL.Image.fromarray(SMOOTH), format="JPEG", quality=95, **how)


def _upright(data: bytes, eighths: int) -> np.ndarray:
    jpeg = Image(data).jpeg()
    assert jpeg is not None
    return jpeg.pixels_uint8(eighths)


@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}], ids=str)
def test_both_decoders_give_the_same_levels(how: dict[str, object]) -> None:
    data = _jpeg(**how)
    np.testing.assert_array_equal(_upright(data, 8), np.asarray(Image(data).decode()))


def test_both_decoders_give_the_same_levels_on_photos() -> None:
    for path in sorted((shared_data("flickr8k") / "images").iterdir())[:40]:
        jpeg = Image(path).jpeg()
        assert jpeg is not None
        np.testing.assert_array_equal(jpeg.pixels_uint8(8), Image(path).pixels_uint8(), err_msg=path.name)


def test_grey_jpegs_are_read_by_both() -> None:
    data = _encoded(PIL.Image.fromarray(SMOOTH).convert("L"), format="JPEG")
    np.testing.assert_array_equal(_upright(data, 8), Image(data).pixels_uint8())
    assert _upright(data, 4).shape == (68, 98, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_both_decoders_obey_exif(orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    image = Image(_encoded(PIL.Image.fromarray(SMOOTH[:128, :192]), format="JPEG", quality=95, exif=exif))
    jpeg = image.jpeg()
    assert jpeg is not None
    assert jpeg.size == image.size == ((192, 128) if orientation < 5 else (128, 192))
    np.testing.assert_array_equal(jpeg.pixels_uint8(8), image.pixels_uint8())
    half = np.asarray(image.decode().reduce(2), np.int16)
    assert np.abs(jpeg.pixels_uint8(4) - half).mean() < 4  # turned another way, it would be 40 and more


MODES: dict[str, dict[str, object]] = {
    "1": {"format": "PNG"},
    "L": {"format": "PNG"},
    "LA": {"format": "PNG"},
    "P": {"format": "PNG"},
    "PA": {"format": "TIFF"},
    "RGB": {"format": "WEBP", "lossless": True},
    "RGBA": {"format": "PNG"},
    "I;16": {"format": "PNG"},
    "CMYK": {"format": "JPEG", "quality": 95},  # Adobe's kind: the inks are stored inverted
    "YCbCr": {"format": "JPEG", "quality": 95},
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_the_same_picture_on_every_path(mode: str) -> None:
    """Against Pillow's own conversion, on both paths; the modes that lose colours are held against themselves."""
    picture = PIL.Image.fromarray(SMOOTH)
    if mode == "I;16":
        picture = PIL.Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    elif mode == "LA":
        picture = picture.convert("L").convert("LA")
    elif mode != "PA":
        picture = picture.convert(mode)
    else:
        picture = picture.quantize(64).convert("PA")
    image = Image(_encoded(picture, **MODES[mode]))
    seen = image.pixels_uint8()
    assert seen.shape == SMOOTH.shape
    grey = PIL.Image.fromarray(SMOOTH).convert("L").convert("RGB")
    expected = {
        "1": PIL.Image.fromarray(SMOOTH).convert("1").convert("RGB"),
        "P": picture.convert("RGB"),
        "PA": picture.convert("RGB"),
        **dict.fromkeys(("L", "LA", "I;16"), grey),
    }.get(mode, PIL.Image.fromarray(SMOOTH))
    assert np.abs(seen.astype(int) - np.asarray(expected)).mean() < (4 if mode in ("CMYK", "YCbCr") else 0.01)
    exact, fast = EXACT.pixels_uint8(image).astype(int), FAST.pixels_uint8(image).astype(int)
    assert np.abs(exact - fast).mean() < 0.5


def test_a_jpeg_that_is_cut_short_is_an_error_on_every_path() -> None:
    whole = _jpeg()
    for data in (whole[: len(whole) // 2], whole[: len(whole) * 9 // 10], whole[:200]):
        for transform in (EXACT, FAST):
            with pytest.raises(DataError, match=r"broken|not a picture"):
                transform(Image(data))


def test_a_jpeg_that_is_merely_odd_is_read_alike_on_every_path() -> None:
    odd = _jpeg()[:-2] + b"\x00" * 40  # its end mark is lost, its pixels are whole
    np.testing.assert_array_equal(_upright(odd, 8), Image(odd).pixels_uint8())
    np.testing.assert_array_equal(_upright(odd, 1), Image(odd).pixels_uint8())  # the strict decoder leaves it to Pillow


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_jpeg_that_claims_too_much_is_refused_on_every_path() -> None:
    data = bytearray(_jpeg())
    frame = data.index(b"\xff\xc0")
    side = 11_000
    assert side * side > MAX_PIXELS
    data[frame + 5 : frame + 9] = side.to_bytes(2, "big") * 2
    for transform in (EXACT, FAST):
        with pytest.raises(DataError, match="claims 11000x11000 pixels"):
            transform(Image(bytes(data)))


def test_fast_decoding_needs_simplejpeg_and_exact_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    EXACT(Image(_jpeg()))
    with pytest.raises(MissingExtra, match="simplejpeg"):
        FAST(Image(_jpeg()))
    entries = {"tokenizer": {"learn": 300}, "image": {"decoding": "fast"}}
    with pytest.raises(MissingExtra, match=r"chiasm\[data\]"):
        PairProcessor.from_recipe(entries, ["a text"])
    with pytest.raises(DataError, match="there is no picture"):
        Image(tmp_path / "absent.jpg").size  # noqa: B018  # reading it is what fails
