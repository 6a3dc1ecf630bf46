from __future__ import annotations

import logging
import os
import posixpath
import pwd
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.config import parse
from chiasm.data import file_cache
from chiasm.data.files import inside, json_lines, picture, read_json, separated
from chiasm.data.locations import Location, Url, place, short_names
from chiasm.data.recent import Recent
from chiasm.errors import DataError, MissingExtra, RecipeError
from tests.data.server import serve
from tests.data.sources.made import jpeg

fsspec: Any = pytest.importorskip("fsspec", reason="URLs are read with fsspec: pip install 'chiasm[data]'")


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    store = fsspec.filesystem("memory")
    yield store
    store.store.clear()


def test_a_recipe_says_a_path_or_a_url() -> None:
    assert parse(Location, "s3://bucket/a//b.csv") == Url("s3://bucket/a//b.csv")  # type: ignore[arg-type]  # a union
    for path in ("data/a.csv", "/a/b", "C:/x", "c://x", "s3:/bucket"):
        assert parse(Location, path) == Path(path)  # type: ignore[arg-type]  # likewise
    assert place("gs://b/x") == Url("gs://b/x")
    assert place(Path("a")) == Path("a")
    with pytest.raises(RecipeError, match="expected Path, got 7"):
        parse(Location, 7)  # type: ignore[arg-type]  # likewise
    for address, words in (
        ("file:///etc/hostname", "lies on this machine"),
        ("zip://a.csv::s3://bucket/a.zip", "chain of URLs"),
        ("no url", "is not a URL"),
    ):
        with pytest.raises(DataError, match=words):
            Url(address)


@pytest.mark.parametrize("root", ["memory://bucket/folder", "s3://bucket/folder", "https://host/folder?key=1"])
@given(name=st.lists(st.sampled_from([*"./ab%?#:@&", "\\", "..", "://", "::"]), min_size=1, max_size=8).map("".join))
def test_no_name_leads_out_of_a_url(root: str, name: str) -> None:
    try:
        found = inside(Url(root), name)
    except DataError:
        return
    assert isinstance(found, Url)
    whole, start = str(found), root.partition("?")[0]
    assert whole.startswith(start + "/")
    if root.startswith("https"):  # what a server would take for more than a name is quoted
        parts = urlsplit(whole)
        assert (parts.query, parts.fragment) == ("key=1", "")
        assert unquote(parts.path) == posixpath.normpath(f"/folder/{name}")
    else:
        assert whole == start + posixpath.normpath(f"/{name}")


def test_what_a_url_is_called() -> None:
    url = Url("https://host/a/b.tar?token=x/y.z")
    assert (url.name, url.stem, url.suffix, str(url.parent)) == ("b.tar", "b", ".tar", "https://host/a?token=x/y.z")
    assert str(Url("s3://bucket/a.csv").parent / "b c.jpg") == "s3://bucket/b c.jpg"
    assert str(Url("https://host") / "b c.jpg") == "https://host/b%20c.jpg"
    urls: list[Location] = [Url("s3://b/train/0.tar"), Url("s3://b/train/1.tar"), Url("s3://b/trial/0.tar")]
    assert short_names(urls) == ["train/0", "train/1", "trial/0"]
    assert short_names(urls[:2]) == ["0", "1"]
    assert short_names([Path("/x/a.b.tar")]) == ["a.b"]


def test_errors_of_a_store_are_one_sentence_with_the_url(tmp_path: Path, memory: Any) -> None:
    (tmp_path / "forbidden.jpg").write_bytes(jpeg(0))
    with serve(tmp_path) as (address, _):
        for name, words in (("absent.jpg", "there is no picture at"), ("forbidden.jpg", "cannot read .*403")):
            with pytest.raises(DataError, match=words) as caught:
                picture(Url(address), name).decode()
            assert f"{address}/{name}" in str(caught.value)
            assert "\n" not in str(caught.value)
        assert not Url(f"{address}/absent.jpg").is_file()
    with pytest.raises(DataError, match=f"cannot read {address}/forbidden.jpg"):  # the server is gone
        picture(Url(address), "forbidden.jpg").decode()
    with pytest.raises(DataError, match=f"cannot read {address}/rows.csv"):  # which is not to say that it is absent
        Url(f"{address}/rows.csv").is_file()
    with pytest.raises(DataError, match="cannot read nostore://a/b: ValueError: Protocol not known"):
        Url("nostore://a/b").read_bytes()
    assert not Url("memory://nothing").is_file()
    assert not Url("memory://nothing").is_dir()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "fsspec", None)
        with pytest.raises(
            MissingExtra, match=r"reading s3://a/b needs the package 'fsspec': pip install 'chiasm\[data\]'"
        ):
            Url("s3://a/b").is_file()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "hf", raising=False)  # it is looked up anew
    with pytest.raises(MissingExtra, match=r"pip install 'chiasm\[hub\]'"):
        Url("hf://datasets/a/b").is_dir()


def test_pictures_of_a_store_are_fetched_when_they_are_needed(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    with serve(tmp_path) as (address, asked):
        image = picture(Url(address), "0.jpg")
        assert asked == []
        assert image.size == (24, 16)
        assert image.decode().size == (24, 16)
        assert image.key == picture(tmp_path, "0.jpg").key
        assert len(asked) == 3
        assert repr(image) == f"Image({address}/0.jpg)"


def test_annotation_files_are_fetched_once_and_anew_when_they_change(memory: Any, tmp_path: Path) -> None:
    memory.pipe("/b/rows.jsonl", b'{"a": 1}\n\n{"a": 2}\nbroken\n')
    rows = json_lines(Url("memory://b/rows.jsonl"))
    assert (len(rows), rows[1]) == (3, {"a": 2})
    with pytest.raises(DataError, match=r"^memory://b/rows\.jsonl, line 4 is not JSON"):
        rows[2]
    held = list((tmp_path / "cache" / "files").iterdir())
    assert [path.name.endswith("-rows.jsonl") for path in held] == [True]
    before = held[0].stat().st_mtime_ns
    assert len(json_lines(Url("memory://b/rows.jsonl"))) == 3
    assert held[0].stat().st_mtime_ns == before
    memory.pipe("/b/rows.jsonl", b'{"a": 3}\n')
    assert json_lines(Url("memory://b/rows.jsonl"))[0] == {"a": 3}
    memory.pipe("/b/rows.csv", b"image,caption\n1.jpg,caf\xe9\n")
    with pytest.raises(DataError, match=r"^memory://b/rows\.csv, line 2 is not UTF-8"):
        separated(Url("memory://b/rows.csv"), ",")[0]
    with pytest.raises(DataError, match=r"there is nothing at memory://b/absent\.json"):
        read_json(Url("memory://b/absent.json"))


def test_a_copy_that_comes_short_is_not_kept(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe("/b/rows.jsonl", b'{"a": 1}\n' * 10)
    monkeypatch.setattr(Url, "fetch", lambda _, path: path.write_bytes(b'{"a": 1}\n'))
    with pytest.raises(DataError, match=r"of memory://b/rows\.jsonl only 9 of 90 bytes came"):
        json_lines(Url("memory://b/rows.jsonl"))
    assert list((tmp_path / "cache" / "files").iterdir()) == []


def test_a_shelf_keeps_what_was_used_last(memory: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(6):
        memory.pipe(f"/b/{i}.tar", bytes([i]) * 1000)
    caplog.set_level(logging.INFO, "chiasm.data.file_cache")

    def use(copies: file_cache.FileCache, number: int) -> None:
        with copies.open(Url(f"memory://b/{number}.tar")) as file:
            assert file.read() == bytes([number]) * 1000
        for path in copies.folder.iterdir():  # a second passes: file systems tell times too coarsely for a test
            os.utime(path, ns=(path.stat().st_mtime_ns - 10**9,) * 2)

    copies = file_cache.FileCache(tmp_path / "shelf", room=3500, least=1)
    for i in (0, 1, 2, 0, 3, 0, 1):  # 1 makes place for 3
        use(copies, i)
    fetched = [record.getMessage().partition("memory://b/")[2][0] for record in caplog.records]
    assert fetched == ["0", "1", "2", "3", "1"]
    assert sum(path.stat().st_size for path in (tmp_path / "shelf").iterdir()) <= 3500
    small = file_cache.FileCache(tmp_path / "small", room=0, least=2)
    for i in (0, 1, 0, 1, 2):
        use(small, i)
    assert sorted(path.name[-5] for path in (tmp_path / "small").iterdir()) == ["1", "2"]


def test_threads_fetch_a_file_once(memory: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    memory.pipe("/b/0.tar", b"x" * 100_000)
    copies = file_cache.FileCache(tmp_path / "shelf", room=10**6, least=1)
    caplog.set_level(logging.INFO, "chiasm.data.file_cache")

    def size(_: int) -> int:
        with copies.open(Url("memory://b/0.tar")) as file:
            return len(file.read())

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(size, range(32))) == {100_000}
    assert len(caplog.records) == 1


def test_the_cache_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHIASM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert file_cache.cache_folder() == Path.home() / ".cache" / "chiasm"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert file_cache.cache_folder() == Path("/x/chiasm")
    monkeypatch.setenv("CHIASM_CACHE", "/y")
    assert file_cache.cache_folder() == Path("/y")


def test_a_user_without_a_home_is_told_to_choose_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHIASM_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)  # as in containers, which run under a number alone
    with pytest.raises(DataError, match="this user has no home folder; set CHIASM_CACHE"):
        file_cache.cache_folder()


def test_recent_values_are_made_once_and_failures_tried_again() -> None:
    made: list[int] = []
    waiting = threading.Barrier(4)

    def make(key: int) -> int:
        made.append(key)
        if key == 9 and made.count(9) == 1:
            raise DataError("the first time it fails")
        return key * key

    recent = Recent(2, make)

    def ask(_: int) -> int:
        waiting.wait()
        return recent(5)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(ask, range(4))) == {25}
    assert made == [5]
    with pytest.raises(DataError):
        recent(9)
    assert (recent(9), recent(5), recent(4), recent(5), len(recent)) == (81, 25, 16, 25, 2)
    assert made == [5, 9, 9, 4]
