from __future__ import annotations

import io
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from chiasm.data.image import Image
from chiasm.errors import ChiasmError
from chiasm.models import folder as model_folder
from chiasm.serving.index import Index, index_home, last_model
from tests.serving.made import Colours, colour_model, folder_of, picture
from tests.worlds import tiny_clip

QUIET = Console(file=io.StringIO())


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = folder_of(tmp_path / "photos")
    for file in root.rglob("*.png"):  # files as young as their time stamp is coarse are read again, to be sure
        os.utime(file, (1e9, 1e9))
    return root


def _index(photos: Path, model: Colours | None = None) -> tuple[Index, Colours]:
    model = model or colour_model()
    return Index(photos, model, photos.parent / "home", about="given"), model


def _names(index: Index) -> list[str]:
    return [entry.name for entry in index.entries()[0]]


def test_vectors_are_those_of_the_model(photos: Path) -> None:
    index = Index(photos, tiny_clip(), photos.parent / "home")
    index.update(QUIET)
    entries, vectors = index.entries()
    assert [entry.name for entry in entries] == sorted(f.relative_to(photos).as_posix() for f in photos.rglob("*.png"))
    expected = tiny_clip().embed_images([Image(photos / entry.name) for entry in entries]).numpy()
    np.testing.assert_allclose(vectors.rows()[[entry.row for entry in entries]], expected, atol=1e-6)


def test_only_what_changed_is_embedded(photos: Path) -> None:
    index, model = _index(photos)
    first = index.update(QUIET)
    assert (first.pictures, first.embedded, sum(model.seen)) == (16, 16, 16)
    assert index.update(QUIET).embedded == 0
    (photos / "red" / "0.png").rename(photos / "was-red.png")
    (photos / "blue" / "0.png").unlink()
    picture(photos / "green" / "0.png", "yellow", seed=99)
    picture(photos / "new" / "deep" / "one.png", "white", seed=98)
    os.utime(photos / "black" / "1.png")  # touched, but the same
    second = index.update(QUIET)
    assert (second.pictures, second.embedded, second.known, second.removed) == (16, 2, 2, 2)
    assert sum(model.seen) == 18
    assert "was-red.png" in _names(index)
    assert not {"red/0.png", "blue/0.png"} & set(_names(index))


def test_a_renamed_picture_keeps_its_vector(photos: Path) -> None:
    index, _ = _index(photos)
    index.update(QUIET)
    before = {entry.name: entry.row for entry in index.entries()[0]}
    (photos / "red" / "0.png").rename(photos / "red" / "9.png")
    index.update(QUIET)
    after = {entry.name: entry.row for entry in index.entries()[0]}
    assert after["red/9.png"] == before["red/0.png"]


def test_a_change_within_the_time_stamp_is_seen(photos: Path) -> None:
    """Same name, same size, same time stamp, other content: as an editor leaves it that is quicker than the clock."""
    file = photos / "fresh.bmp"
    picture(file, "red", seed=50)
    index, _ = _index(photos)
    index.update(QUIET)
    told = file.stat()
    picture(file, "blue", seed=51)
    os.utime(file, ns=(told.st_atime_ns, told.st_mtime_ns))
    assert file.stat().st_size == told.st_size
    assert index.update(QUIET).embedded == 1


def test_the_unreadable_is_told_and_tried_again_only_when_it_changes(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = photos / "broken.jpg"
    broken.write_bytes(b"no picture")
    os.utime(broken, (1e9, 1e9))
    (photos / "notes.txt").write_text("passed over")
    (photos / "phone.heic").write_bytes(b"a format that is not read")
    (photos / ".hidden.png").write_bytes(b"passed over")
    (photos / "away.png").symlink_to("/etc/passwd")
    index, _ = _index(photos)
    told = {one.name: one.reason for one in index.update(QUIET).unreadable}
    assert set(told) == {"broken.jpg", "phone.heic", "away.png"}
    assert "is not a picture that can be read" in told["broken.jpg"]
    assert "leads out of the folder" in told["away.png"]
    decoded: list[str] = []
    real = Image.decode

    def decode(self: Image, at_least: int | None = None) -> object:
        decoded.append(self.name)
        return real(self, at_least)

    monkeypatch.setattr(Image, "decode", decode)
    broken.rename(photos / "renamed.jpg")
    again = {one.name for one in index.update(QUIET).unreadable}
    assert again == {"renamed.jpg", "phone.heic", "away.png"}
    assert not decoded
    picture(photos / "good.png", "red", seed=70).rename(photos / "renamed.jpg")
    assert {one.name for one in index.update(QUIET).unreadable} == {"phone.heic", "away.png"}
    assert len(decoded) == 1
    assert "renamed.jpg" in _names(index)


def test_a_file_that_cannot_be_opened_is_told(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.read_bytes

    def read_bytes(self: Path) -> bytes:
        if self.name == "0.png" and self.parent.name == "red":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self)

    index, _ = _index(photos)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", read_bytes)
        changes = index.update(QUIET)
    assert [(one.name, "Permission denied" in one.reason) for one in changes.unreadable] == [("red/0.png", True)]
    assert index.update(QUIET).embedded == 1, "what could not be opened is tried again"


def test_another_model_has_another_index(photos: Path) -> None:
    first, _ = _index(photos)
    second, _ = _index(photos, colour_model(seed=1))
    first.update(QUIET)
    assert second.update(QUIET).embedded == 16
    assert first.home != second.home
    third, unused = _index(photos, colour_model(seed=0))
    assert third.update(QUIET).embedded == 0
    assert not unused.seen
    assert last_model(photos.parent / "home") == "given"
    assert last_model(photos) is None


def test_names_that_are_no_text_are_indexed(photos: Path) -> None:
    odd = os.fsdecode(os.fsencode(photos) + b"/\xff<b>\n.png")
    picture(photos / "odd.png", "red", seed=60).rename(odd)
    index, _ = _index(photos)
    index.update(QUIET)
    assert Path(odd).name in _names(index)


def test_vectors_of_what_is_long_gone_are_dropped(photos: Path) -> None:
    index, _ = _index(photos)
    index.update(QUIET)
    for file in [*photos.glob("r*/*.png"), *photos.glob("b*/*.png")]:
        file.unlink()
    index.update(QUIET, now=time.time() + 86_400)
    assert index.entries()[1].count == 16, "a disk may only be unmounted for a while"
    index.update(QUIET, now=time.time() + 90 * 86_400)
    index.update(QUIET)
    entries, vectors = index.entries()
    assert (len(entries), vectors.count) == (10, 10)
    expected = colour_model().embed_images([Image(photos / entry.name) for entry in entries]).numpy()
    np.testing.assert_allclose(vectors.rows()[[entry.row for entry in entries]], expected, atol=1e-6)
    assert [file.name for file in index.home.glob("vectors-*")] == ["vectors-1.npy"]


def test_two_updates_at_once_are_refused(photos: Path) -> None:
    index, _ = _index(photos)
    lock = sqlite3.connect(index.home / "lock.sqlite", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ChiasmError, match="another process is at work on the index"):
        index.update(QUIET)
    lock.close()
    assert index.update(QUIET).embedded == 16


def test_home_follows_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    assert index_home(Path()) == index_home(tmp_path / "a")
    assert index_home(Path()).is_relative_to(tmp_path / "cache" / "chiasm")
    assert index_home(tmp_path) != index_home(tmp_path / "a")
    assert index_home(tmp_path, tmp_path / "here").parent == tmp_path / "here"


@pytest.mark.slow
def test_a_killed_update_goes_on(tmp_path: Path) -> None:
    photos = folder_of(tmp_path / "photos", each=60)
    model_folder.save(tiny_clip(), tmp_path / "model")
    words = [sys.executable, "-m", "chiasm", "search", str(photos), "--model", str(tmp_path / "model")]
    words += ["--index", str(tmp_path / "home")]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(f.stat().st_size > 128 for f in (tmp_path / "home").rglob("vectors-0.npy")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    model = model_folder.load(tmp_path / "model")
    index = Index(photos, model, index_home(photos, tmp_path / "home"))
    held = index.entries()[1].count
    assert 0 <= held < 480, "the kill came too late to show anything"
    changes = index.update(QUIET)
    assert (changes.pictures, changes.embedded) == (480, 480 - held)
    entries, vectors = index.entries()
    expected = tiny_clip().embed_images([Image(photos / entry.name) for entry in entries]).numpy()
    np.testing.assert_allclose(vectors.rows()[[entry.row for entry in entries]], expected, atol=1e-6)
