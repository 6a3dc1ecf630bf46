"""Where data lies: a path of this machine, or a URL of any store that fsspec knows, asked with the same words.

A source says `path: Location`; its recipe entry may then be `data/train.csv`, `s3://bucket/train.csv`,
`gs://`, `https://`, `hf://datasets/owner/name/...`, `memory://`, ... Retries, credentials and other options of a store
are fsspec's own: its configuration files and its FSSPEC_... environment variables set them."""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

from chiasm.config import Scalar
from chiasm.data.image import Image
from chiasm.errors import DataError, MissingExtra

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://[^\x00-\x1f]+")  # two letters at least: one is a drive of Windows
_WEB = ("http", "https")
_NOT_FOUND = 404  # HTTP's status
_SHOWN = 200  # characters of a store's own words in an error

# What stores raise besides OSError, by the module that defines it; only modules that a store has loaded can raise.
_FAILURES = {
    "aiohttp": ("ClientError",),
    "azure.core.exceptions": ("AzureError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "gcsfs.retry": ("HttpError",),
    "google.auth.exceptions": ("GoogleAuthError",),
    "httpx": ("HTTPError",),
    "httpx2": ("HTTPError",),
    "paramiko.ssh_exception": ("SSHException",),
}


class AbsentError(DataError):
    """There is nothing at a URL."""


class Url(Scalar):
    """A file or folder in a store, with those of Path's words that sources use. Nothing is asked before it is needed.

    Whatever the store raises becomes a DataError that names the URL. Raises MissingExtra without fsspec.
    """

    def __init__(self, address: str) -> None:
        found = _SCHEME.fullmatch(address)
        if found is None:
            raise DataError(f"'{address}' is not a URL such as s3://bucket/folder/file.csv")
        if "::" in address:  # fsspec would open one store inside of another, and leave the folder
            raise DataError(f"'{address}' is a chain of URLs; give one URL, without '::'")
        self.address, self.scheme = address, found[1].lower()
        if self.scheme in ("file", "local"):
            raise DataError(f"'{address}' lies on this machine; write it as a plain path, without {found[1]}://")

    @classmethod
    def from_scalar(cls, word: str) -> Self:
        if _SCHEME.fullmatch(word) is None:
            raise ValueError(word)
        return cls(word)

    def __str__(self) -> str:
        return self.address

    def __repr__(self) -> str:
        return f"Url({self.address!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and other.address == self.address

    def __hash__(self) -> int:
        return hash(self.address)

    @property
    def _path(self) -> PurePosixPath:
        """The part of the URL after the store's name, without a query."""
        if self.scheme in _WEB:
            return PurePosixPath(urlsplit(self.address).path or "/")
        return PurePosixPath(self.address.partition("://")[2])

    @property
    def name(self) -> str:
        return self._path.name

    @property
    def stem(self) -> str:
        return self._path.stem

    @property
    def suffix(self) -> str:
        return self._path.suffix

    @property
    def parent(self) -> Url:
        return self._with_path(str(self._path.parent))

    @property
    def is_pattern(self) -> bool:
        """Whether it holds characters that stand for others, as in `**/*.parquet`."""
        return any(sign in self.address for sign in ("*[" if self.scheme in _WEB else "*[?"))

    def __truediv__(self, name: str) -> Url:
        return self._with_path(posixpath.join(str(self._path), quote(name) if self.scheme in _WEB else name))

    def _with_path(self, path: str) -> Url:
        if self.scheme in _WEB:
            return Url(urlsplit(self.address)._replace(path=path).geturl())
        return Url(f"{self.address.partition('://')[0]}://{path}")

    def inside(self, name: str) -> Url:
        """The file of this name below this folder. Raises DataError for a name that leads out of it."""
        normal = posixpath.normpath(name)
        if not name.isprintable() or "://" in name or "::" in name or normal == ".":
            raise DataError(f"{name!r} names no file in {self}")
        if normal == ".." or normal.startswith(("/", "../")):
            raise DataError(f"'{name}' leads out of the folder {self}; data may only name files inside of it")
        return self / normal

    @cached_property
    def _store(self) -> tuple[Any, str]:
        """fsspec's file system, and what it calls this URL."""
        try:
            import fsspec
        except ModuleNotFoundError as error:
            raise MissingExtra("fsspec", "data", f"reading {self}") from error
        try:
            kind = fsspec.get_filesystem_class(self.scheme)
            # Not `fsspec.url_to_fs`, which gives meanings of its own to some names.
            return kind(**kind._get_kwargs_from_urls(self.address)), kind._strip_protocol(self.address)
        except ImportError as error:
            if self.scheme == "hf":
                raise MissingExtra("huggingface_hub", "hub", f"reading {self}") from error
            raise DataError(f"cannot read {self}: {_sentence(error)}") from error
        except _failures() as error:
            raise DataError(f"cannot read {self}: {_sentence(error)}") from error

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The store's entry for this URL: type, size and more. Raises AbsentError if there is nothing."""
        store, path = self._store
        with _as_data_errors(self):
            return dict(store.info(path))

    @property
    def version(self) -> str:
        """A string that changes with the content, as far as the store knows: the size, and its tag or time."""
        marks = ("size", "ETag", "etag", "Content-MD5", "md5Hash", "blob_id", "LastModified", "Last-Modified", "mtime")
        return " ".join(f"{mark}={self.facts[mark]}" for mark in (*marks, "created") if mark in self.facts)

    @property
    def length(self) -> int | None:
        """The size in bytes, None where the store does not know it."""
        size = self.facts.get("size")
        return size if isinstance(size, int) else None

    def is_file(self) -> bool:
        try:
            return bool(self.facts.get("type") == "file")
        except AbsentError:
            return False

    def is_dir(self) -> bool:
        """Whether this is a folder; a web server, which may list none, is taken to have it."""
        if self.scheme in _WEB:
            return True
        try:
            return bool(self.facts.get("type") == "directory")
        except AbsentError:
            return False

    def read_bytes(self) -> bytes:
        """The whole content."""
        store, path = self._store
        with _as_data_errors(self):
            return store.cat_file(path)

    @contextmanager
    def open(self) -> Iterator[Any]:
        """A binary file that fetches the ranges that are read, and no more; the store must serve ranges."""
        store, path = self._store
        with _as_data_errors(self), store.open(path, "rb", cache_type="none") as file:
            yield file

    def fetch(self, path: Path) -> None:
        """Writes the whole content to a file of this machine."""
        store, name = self._store
        with _as_data_errors(self):
            store.get_file(name, str(path))

    def glob(self, pattern: str = "") -> list[Url]:
        """The files that fit a pattern below this folder, or this URL where it is a pattern; sorted."""
        wanted = self / pattern if pattern and self.scheme not in _WEB else self
        store, path = wanted._store
        if pattern and self.scheme in _WEB:
            path = f"{path.rstrip('/')}/{pattern}"  # not quoted, as a name would be
        with _as_data_errors(self):
            found = store.glob(path, detail=True)
        return [Url(store.unstrip_protocol(name)) for name in sorted(found) if found[name].get("type") == "file"]

    def below(self) -> list[str]:
        """The names of all files below this folder, at any depth, with slashes; sorted."""
        store, path = self._store
        with _as_data_errors(self):
            found = store.find(path)
        start = path.rstrip("/") + "/"
        names = (name.removeprefix(start) for name in found)
        return sorted(unquote(name) if self.scheme in _WEB else name for name in names)


Location = Url | Path  # in this order: any text is a path


def place(text: str | Path | Url) -> Location:
    """The location that a text names: a URL if it looks like one, else a path."""
    if isinstance(text, (Path, Url)):
        return text
    return Url(text) if _SCHEME.fullmatch(text) else Path(text)


def matching(folder: Location, pattern: str) -> list[Location]:
    """The files right in a folder whose names fit a pattern, sorted."""
    found: list[Location] = [*folder.glob(pattern)]
    return sorted(found, key=str)


def short_names(locations: Sequence[Location]) -> list[str]:
    """The locations relative to the folder that they share, without endings: what their samples are called by."""
    names = [str(location) if isinstance(location, Url) else location.absolute().as_posix() for location in locations]
    folders = [posixpath.dirname(name) + "/" for name in names]
    first, last = min(folders, default=""), max(folders, default="")
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    shared = first[:same].rpartition("/")[0] + "/" if "/" in first[:same] else ""
    return [posixpath.splitext(name.removeprefix(shared))[0] for name in names]


class UrlImage(Image):
    """A picture in a store: fetched when it is decoded, and not kept, so that lists of them stay small."""

    __slots__ = ("url",)

    def __init__(self, url: Url) -> None:
        super().__init__(b"")  # nothing of it is here yet
        self.url = url

    @property
    def name(self) -> str:
        return str(self.url)

    def encoded(self) -> bytes:
        try:
            return self.url.read_bytes()
        except AbsentError as error:
            raise DataError(f"there is no picture at {self.url}") from error


def image_at(where: Location) -> Image:
    """The picture at a location; nothing is read before it is needed."""
    return UrlImage(where) if isinstance(where, Url) else Image(where)


@contextmanager
def _as_data_errors(url: Url) -> Iterator[None]:
    """Errors of a store, as DataErrors that name the URL."""
    try:
        yield
    except FileNotFoundError as error:
        # Of a web server fsspec says so whatever went wrong, and what did is the cause.
        cause = error.__cause__
        if isinstance(cause, _failures()) and getattr(cause, "status", None) != _NOT_FOUND:
            raise DataError(f"cannot read {url}: {_sentence(cause)}") from error
        raise AbsentError(f"there is nothing at {url}") from error
    except _failures() as error:
        raise DataError(f"cannot read {url}: {_sentence(error)}") from error


def _failures() -> tuple[type[Exception], ...]:
    known = [
        getattr(sys.modules[module], name)
        for module, names in _FAILURES.items()
        for name in names
        if module in sys.modules
    ]
    return (OSError, EOFError, ValueError, RuntimeError, *known)


def _sentence(error: Exception) -> str:
    words = " ".join(str(error).split())
    if len(words) > _SHOWN:
        words = words[:_SHOWN].rpartition(" ")[0] + " ..."
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
