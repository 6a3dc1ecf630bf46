from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from chiasm.data.image import MAX_PIXELS, Image
from chiasm.errors import DataError
from tests.shared_data import shared_data

QUARTERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8).repeat(8, 0).repeat(8, 1)


def _encoded(picture: PIL.Image.Image, **how: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **how)  # type: ignore[arg-type]
    return buffer.getvalue()


def _levels(image: Image) -> np.ndarray:
    return np.asarray(image.decode())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int) -> None:
    """The upright picture is stored turned as each orientation says, then must be seen upright again."""
    stored = {
        1: QUARTERS,
        2: QUARTERS[:, ::-1],
        3: QUARTERS[::-1, ::-1],
        4: QUARTERS[::-1],
        5: QUARTERS.transpose(1, 0, 2),
        6: np.rot90(QUARTERS, 1),
        7: QUARTERS[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(QUARTERS, -1),
    }[orientation]
    tall = np.concatenate([stored, stored], axis=0 if orientation < 5 else 1)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    image = Image(_encoded(PIL.Image.fromarray(np.ascontiguousarray(tall)), format="PNG", exif=exif))
    assert image.size == (16, 32)
    assert image.decode().size == (16, 32)
    single = Image(_encoded(PIL.Image.fromarray(np.ascontiguousarray(stored)), format="PNG", exif=exif))
    np.testing.assert_array_equal(_levels(single), QUARTERS)


def test_transparency_is_laid_on_white() -> None:
    levels = np.zeros((2, 2, 4), np.uint8)
    levels[0] = (255, 0, 0, 255)
    levels[1] = (0, 0, 0, 51)  # black, a fifth opaque: 0.8 of white
    seen = _levels(Image(_encoded(PIL.Image.fromarray(levels), format="PNG")))
    assert seen[0, 0].tolist() == [255, 0, 0]
    assert seen[1, 0].tolist() == [204, 204, 204]


def test_a_transparent_palette_colour_is_laid_on_white() -> None:
    picture = PIL.Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    seen = _levels(Image(_encoded(picture, format="PNG", transparency=1)))
    assert seen[0].tolist() == [[255, 0, 0], [255, 255, 255]]


def test_sixteen_bit_greys_are_scaled() -> None:
    levels = np.array([[0, 257, 32896, 65535]], np.uint16)
    seen = _levels(Image(_encoded(PIL.Image.fromarray(levels), format="PNG")))
    assert seen[0, :, 0].tolist() == [0, 1, 128, 255]
    assert seen.shape == (1, 4, 3)


def test_cmyk_grey_and_animations_become_rgb() -> None:
    cmyk = PIL.Image.fromarray(QUARTERS).convert("CMYK")
    assert _levels(Image(_encoded(cmyk, format="JPEG"))).shape == (16, 16, 3)
    assert _levels(Image(_encoded(PIL.Image.new("L", (3, 2), 77), format="PNG"))).tolist() == [[[77] * 3] * 3] * 2
    frames = [PIL.Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    gif = _encoded(frames[0], format="GIF", save_all=True, append_images=frames[1:])
    assert _levels(Image(gif))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_header_that_claims_too_much_is_refused_before_decoding() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(DataError, match=r"large|claims"):
        Image(png).decode()
    within = struct.pack(">IIBBBBB", 11_000, 11_000, 8, 2, 0, 0, 0)  # below what Pillow itself refuses
    assert MAX_PIXELS < 11_000 * 11_000
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", within) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(DataError, match="claims 11000x11000 pixels"):
        Image(png).decode()


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no picture at .*absent\.jpg"):
        Image(tmp_path / "absent.jpg").decode()
    (tmp_path / "text.jpg").write_text("not a picture")
    with pytest.raises(DataError, match=r"text\.jpg is not a picture"):
        Image(tmp_path / "text.jpg").decode()
    whole = _encoded(
        PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), format="JPEG"
    )
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.jpg is broken"):
        Image(tmp_path / "cut.jpg").decode()
    with pytest.raises(DataError, match=r"must be \(H, W, 3\) uint8"):
        Image(np.zeros((4, 4), np.uint8))


def test_keys_follow_the_content(tmp_path: Path) -> None:
    data = _encoded(PIL.Image.fromarray(QUARTERS), format="PNG")
    (tmp_path / "a.png").write_bytes(data)
    assert Image(tmp_path / "a.png").key == Image(data).key
    assert Image(QUARTERS).key == Image(QUARTERS.copy()).key
    assert Image(QUARTERS).key != Image(QUARTERS[::-1].copy()).key
    assert Image(np.zeros((2, 8, 3), np.uint8)).key != Image(np.zeros((8, 2, 3), np.uint8)).key


def test_fast_decoding_is_large_enough_and_close() -> None:
    photo = Image(min((shared_data("flickr8k") / "images").iterdir()))
    small = photo.decode(at_least=40)
    assert 40 <= min(small.size) < min(photo.decode().size)
    exact = np.asarray(photo.decode().resize((32, 32), PIL.Image.Resampling.BICUBIC), np.int16)
    fast = np.asarray(small.resize((32, 32), PIL.Image.Resampling.BICUBIC), np.int16)
    assert np.abs(exact - fast).mean() < 3
