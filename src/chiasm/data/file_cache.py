"""Copies of files from stores, kept on this machine: CHIASM_CACHE, or chiasm in the user's cache folder.

A copy is found again by its URL and the version that the store tells (size, tag, time), so a changed file is fetched
anew. It is written aside and renamed when it is whole. The folder may be removed at any time when nothing runs."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from chiasm.data.locations import Location, Url
from chiasm.errors import DataError

log = logging.getLogger(__name__)

_TRIES = 3  # another process may make room just when a copy was found


def cache_folder() -> Path:
    """Where copies are kept: $CHIASM_CACHE, $XDG_CACHE_HOME/chiasm or ~/.cache/chiasm.

    Raises DataError where neither is set and this user has no home folder, as in some containers.
    """
    if chosen := os.environ.get("CHIASM_CACHE"):
        return Path(chosen)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "chiasm"
    try:
        return Path.home() / ".cache" / "chiasm"
    except RuntimeError as error:
        raise DataError("this user has no home folder; set CHIASM_CACHE to a folder for what is kept") from error


def local(where: Location) -> Path:
    """The file itself, or the copy of one in a store, which stays. Raises DataError if it cannot be fetched."""
    if isinstance(where, Path):
        return where
    path = cache_folder() / "files" / copy_name(where)
    if not path.exists():
        _fetch(where, path)
    return path


def copy_name(url: Url) -> str:
    """A file name for this version of what lies at a URL."""
    digest = hashlib.blake2b(f"{url} {url.version}".encode(), digest_size=12).hexdigest()
    return f"{digest}-{url.name[-80:]}"


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file aside and renames it, so that it is never seen in part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _aside(path)
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class FileCache:
    """Copies of large files, such as shards: those used last, up to a number of bytes.

    room: bytes that the folder may take; the copies used longest ago are evicted. least: so many used last stay,
    whatever their size, so that files that are read by turns are not fetched by turns, too. Several threads and
    processes may use one folder; within a process a file is fetched by one thread while the others wait.
    """

    def __init__(self, folder: Path, room: int, least: int) -> None:
        self.folder, self.room, self.least = folder, room, least
        self._guard = threading.Lock()
        self._fetching: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def open(self, url: Url) -> BinaryIO:
        """The copy of a file, open for reading; fetched if it is not here. It may be evicted while it is open."""
        path = self.folder / copy_name(url)
        for _ in range(_TRIES):
            with suppress(FileNotFoundError):
                return _used(path)
            with self._guard:
                lock = self._fetching[path.name]
            with lock, suppress(FileNotFoundError):
                if path.exists():  # by now; a thread that came first has fetched it
                    return _used(path)
                _fetch(url, path)
                file = path.open("rb")  # before it may be evicted itself
                self._make_room()
                return file
        raise DataError(f"the copy of {url} is removed as soon as it is made; give {self.folder} more room")

    def _make_room(self) -> None:
        with self._guard:
            found = []
            for path in self.folder.iterdir():
                with suppress(FileNotFoundError):  # another process evicted it, too
                    found.append((path.stat().st_mtime_ns, path.stat().st_size, path))
            taken = 0
            for rank, (_, size, path) in enumerate(sorted(found, reverse=True)):
                taken += size
                if taken > self.room and rank >= self.least and path.suffix != ".part":
                    path.unlink(missing_ok=True)


def _used(path: Path) -> BinaryIO:
    file = path.open("rb")
    with suppress(FileNotFoundError):
        os.utime(path)
    return file


def _fetch(url: Url, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _aside(path)
    log.info("fetching %s (%s bytes)", url, "unknown" if url.length is None else f"{url.length:,}")
    try:
        url.fetch(part)
        if url.length is not None and part.stat().st_size != url.length:
            raise DataError(f"of {url} only {part.stat().st_size:,} of {url.length:,} bytes came; try again")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
