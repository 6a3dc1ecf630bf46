"""Pictures of strangers: odd entries, formats that nobody asked for, unusual modes."""

import io
import os
import struct
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from chiasm.data.image import Image
from chiasm.errors import DataError

RNG = np.random.default_rng(0)
STORED = PIL.Image.fromarray(np.kron(RNG.integers(0, 255, (3, 7, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8)))


def _saved(image: PIL.Image.Image, kind: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def _ifd(*entries: bytes, behind: bytes = b"") -> bytes:
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + struct.pack("<I", 0)
    return b"Exif\0\0" + head + behind


def _entry(tag: int, kind: int, value: bytes) -> bytes:
    return struct.pack("<HHI", tag, kind, 1) + value.ljust(4, b"\0")


TURN = _entry(274, 3, struct.pack("<HH", 6, 0))
ODD = {
    "a resolution of -1/0": _ifd(TURN, _entry(282, 10, struct.pack("<I", 38)), behind=struct.pack("<ii", -1, 0)),
    "no number": _ifd(TURN, _entry(256, 11, struct.pack("<f", float("nan")))),
    "a negative short": _ifd(TURN, _entry(256, 8, struct.pack("<hh", -5, 0))),
}


@pytest.mark.parametrize("exif", ODD.values(), ids=ODD)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_odd_entry_beside_the_orientation_costs_nothing(exif: bytes, kind: str) -> None:
    content = _saved(STORED, kind, exif=exif)
    image = Image(content)
    plain = PIL.Image.open(io.BytesIO(content)).convert("RGB").transpose(PIL.Image.Transpose.ROTATE_270)
    assert image.size == image.decode().size == plain.size
    assert np.array_equal(image.pixels_uint8(), np.asarray(plain))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "TIFF", "AVIF", "GIF"])
def test_the_size_of_the_header_is_that_of_the_pixels(kind: str, orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[274] = orientation
    content = _saved(STORED, kind, exif=exif)
    image = Image(content)
    expected = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(content))).convert("RGB")
    assert image.size == expected.size
    assert np.array_equal(image.pixels_uint8(), np.asarray(expected))
    if kind != "GIF":
        assert image.size == (STORED.size if orientation < 5 else STORED.size[::-1])


def test_no_program_is_started_for_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostScript that is called .jpg: Pillow would have Ghostscript run it."""
    spy = tmp_path / "bin" / "gs"
    spy.parent.mkdir()
    spy.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    spy.chmod(0o755)
    monkeypatch.setenv("PATH", f"{spy.parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "photo.jpg").write_bytes(_saved(STORED, "EPS"))
    for source in (tmp_path / "photo.jpg", _saved(STORED, "EPS")):
        for asked in (lambda image: image.size, lambda image: image.decode()):
            with pytest.raises(DataError, match="is not a picture that can be read: it has none of the formats"):
                asked(Image(source))
    assert not (tmp_path / "started").exists()


KINDS = "AVIF BLP BMP DDS GIF ICNS ICO JPEG JPEG2000 PCX PNG PPM PSD QOI SGI TGA TIFF WEBP XBM"


@pytest.mark.parametrize("kind", KINDS.split())
def test_whatever_is_damaged_is_a_data_error(kind: str) -> None:
    """Each byte of the first ones, and some behind, exchanged; cuts; nothing but DataError may come of it."""
    picture = {"XBM": STORED.convert("1"), "BLP": STORED.quantize(), "ICNS": STORED.resize((32, 32))}.get(kind, STORED)
    if kind == "PSD":
        sound = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(12) + b"\0\0" + bytes(192)
    else:
        sound = _saved(picture, kind)
    rng = np.random.default_rng(1)
    broken = 0
    for _ in range(150):
        content = bytearray(sound)
        for at in rng.integers(0, min(len(content), 256), rng.integers(1, 4)):
            content[at] = rng.integers(0, 256)
        cut = bytes(content[: rng.integers(1, len(content))] if rng.random() < 0.3 else content)
        try:
            Image(cut).decode()
            _ = Image(cut).size
        except DataError as error:
            assert str(error)  # noqa: PT017  # every one of them must say something
            broken += 1
    assert broken


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    for asked in (lambda image: image.size, lambda image: image.decode(), lambda image: image.encoded()):
        with pytest.raises(DataError, match="no file"):
            asked(Image(tmp_path / "a.jpg"))


def test_a_header_that_does_not_end_is_refused_at_once(tmp_path: Path) -> None:
    endless = b"P6\n#" + b"x" * 5_000_000 + b"\n4 4\n255\n" + bytes(48)
    (tmp_path / "a.ppm").write_bytes(endless)
    for source in (endless, tmp_path / "a.ppm"):
        with pytest.raises(DataError, match="its header is longer"):
            _ = Image(source).size
    small = Image(b"P6\n# made by hand\n4 4\n255\n" + bytes(range(48)))
    assert small.pixels_uint8().ravel().tolist() == list(range(48))


def test_grey_of_16_bits_with_a_transparent_level_is_seen_on_white() -> None:
    grey = np.array([[0, 257 * 100], [65535, 257 * 7]], np.uint16)
    image = Image(_saved(PIL.Image.fromarray(grey), "PNG", transparency=257 * 7))
    assert image.pixels_uint8()[..., 0].tolist() == [[0, 100], [255, 255]]


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0, 1e6])
def test_floats_are_seen_by_their_range(white: float) -> None:
    shares = np.array([[0.0, 0.25], [1.0, np.nan]], np.float32)
    image = Image(_saved(PIL.Image.fromarray(shares * np.float32(white)), "TIFF"))
    assert image.pixels_uint8()[..., 0].tolist() == [[0, 64], [255, 0]]
