"""Small pictures, made when they are asked for, kept on disk up to a limit, and only of what is in the index."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import PIL.Image

from chiasm.data.files import inside
from chiasm.data.image import Image
from chiasm.errors import DataError

_SMALL, _LARGE = 320, 1600  # pixels of the longer side
_MOST_BYTES = 256_000_000
_AT_ONCE = 2  # pictures decoded at the same time; each may take a quarter of a GiB


class IndexThumbnails:
    """JPEGs of the pictures of an index, by the hash of their content.

    names: each picture's file below `folder`, by that hash. kept: where small ones are kept; of more than `most_bytes`
    the ones that were not asked for the longest go. A file whose content is no longer that of the hash is refused.
    """

    def __init__(self, folder: Path, names: Mapping[str, str], kept: Path, most_bytes: int = _MOST_BYTES) -> None:
        self.folder, self.names, self.kept, self.most_bytes = folder, names, kept, most_bytes
        kept.mkdir(parents=True, exist_ok=True)
        self._bytes = sum(file.stat().st_size for file in kept.iterdir())
        self._lock, self._decoding = threading.Lock(), threading.Semaphore(_AT_ONCE)

    def small(self, key: str) -> bytes:
        """A thumbnail. Raises KeyError for what is not in the index, DataError for what can't be read any more."""
        if key not in self.names:
            raise KeyError(key)
        file = self.kept / f"{key}.jpg"
        try:
            content = file.read_bytes()
            os.utime(file)
        except FileNotFoundError:
            content = self._scaled(key, _SMALL)
            self._keep(file, content)
        return content

    def large(self, key: str) -> bytes:
        """The picture for a screen; made anew each time. Raises as `small` does."""
        return self._scaled(key, _LARGE)

    def _scaled(self, key: str, size: int) -> bytes:
        image = Image(Image(inside(self.folder, self.names[key])).encoded())
        if image.key != key:
            raise DataError(f"{self.names[key]} has changed since it was indexed")
        with self._decoding:
            decoded = image.decode(at_least=size)
            decoded.thumbnail((size, size), PIL.Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        decoded.save(buffer, format="JPEG", quality=85)
        return buffer.getvalue()

    def _keep(self, file: Path, content: bytes) -> None:
        aside = file.with_name(f"{file.stem}.{threading.get_ident()}.new")
        aside.write_bytes(content)
        aside.replace(file)
        with self._lock:
            self._bytes += len(content)
            if self._bytes > self.most_bytes:
                self._drop_oldest()

    def _drop_oldest(self) -> None:
        files = sorted((path.stat().st_mtime_ns, path.stat().st_size, path) for path in self.kept.glob("*.jpg"))
        self._bytes = sum(size for _, size, _ in files)
        for _, size, file in files:
            if self._bytes <= self.most_bytes * 3 // 4:
                return
            file.unlink(missing_ok=True)
            self._bytes -= size
