"""Training pictures, decoded once and kept on disk as they come out of the decoder, mapped into memory to be read."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from chiasm.config import dump
from chiasm.data.file_cache import cache_folder
from chiasm.data.image import Image
from chiasm.data.order import Blocks
from chiasm.data.resizing import resized
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.data.transforms import ImageTransform, Views
from chiasm.data.vectors import GrowingArray, KeyFile
from chiasm.errors import CheckpointError, DataError, RecipeError

_VERSION = 2  # of what is stored; another one begins a new folder
_CHUNK = 64  # samples that are decoded before any of them is written
_MEASURED = 100  # headers from which the space on disk is estimated
_SPARE = 8 / 7  # how much larger than the transform's size a stored picture is, so that crops keep their detail


@dataclass(frozen=True)
class ImageCache:
    """Where decoded pictures are kept, and how large.

    folder: `pictures` in chiasm's cache folder (CHIASM_CACHE, or chiasm in the user's) if it is not given.
    side: pixels of the shorter side of stored pictures, where the transform crops at random; 8/7 of the transform's
        size if it is not given. Without augmentation the transform's own pixels are stored.
    crops: in place of a whole picture, so many of its random crops are drawn once and stored, and training takes one of
        them each time: nothing is left to resize.
    """

    folder: Path | None = None
    side: int | None = None
    crops: int | None = None

    def __post_init__(self) -> None:
        if self.side is not None and self.crops is not None:
            raise RecipeError("data.cache: give either side or crops; crops are stored at the transform's own size")
        if self.crops is not None and self.crops < 1:
            raise RecipeError(f"data.cache.crops must be at least 1, not {self.crops}")

    def place(self) -> Path:
        """The folder of all decoded pictures."""
        return cache_folder() / "pictures" if self.folder is None else self.folder


class DecodedImages:
    """Decoded pictures on disk, (H, W, 3) uint8, by the hash of their content; or the reason why one cannot be decoded.

    `levels.npy` has the pixels of all pictures end to end, and `sizes.npy` a row a picture: width, height and the byte
    where its pixels begin. Where the width is 0, what begins there is a text of `height` bytes: the reason.
    """

    def __init__(self, folder: Path) -> None:
        self._pixels = GrowingArray(folder / "levels.npy", (), "uint8")
        self._sizes = GrowingArray(folder / "sizes.npy", (3,), "int64")
        self.keys = KeyFile(folder / "pictures.keys", self._sizes)
        if self._pixels.count < self._end():
            raise CheckpointError(f"the cache {folder} is damaged; remove it, and it will be made anew")
        self._pixels.truncate(self._end())

    def __len__(self) -> int:
        return self._sizes.count

    @property
    def bytes(self) -> int:
        """Bytes that all pictures take on disk."""
        return self._pixels.count

    def add(self, images: Iterable[tuple[str, NDArray[np.uint8] | str]]) -> None:
        """Adds pictures, or reasons, under keys that are new."""
        keys, sizes, contents, end = [], [], [], self._pixels.count
        for key, made in images:
            content = np.frombuffer(made.encode(), np.uint8) if isinstance(made, str) else made.reshape(-1)
            sizes.append((0, len(content), end) if isinstance(made, str) else (made.shape[1], made.shape[0], end))
            keys.append(key)
            contents.append(content)
            end += len(content)
        if keys:
            self._pixels.append(np.concatenate(contents))
            self._sizes.append(np.array(sizes, np.int64))
            self.keys.append(keys)

    def map(self) -> None:
        """Maps the pixels into memory for `at`, after all pictures were added; keys are forgotten."""
        self.keys.places.clear()
        self._mapped_sizes = np.asarray(self._sizes.rows())
        self._mapped = np.asarray(self._pixels.rows(own=True))  # torch does not take what cannot be written to

    def at(self, index: int) -> NDArray[np.uint8]:
        """The pixels of the picture that was added at this index. Raises DataError with the reason if it has none."""
        width, height, start = self._mapped_sizes[index].tolist()
        if width == 0:
            raise DataError(self._mapped[start : start + height].tobytes().decode())
        return self._mapped[start : start + width * height * 3].reshape(height, width, 3)

    def _end(self) -> int:
        """Bytes of the pictures that have keys."""
        if not self._sizes.count:
            return 0
        width, height, start = self._sizes.rows()[-1].tolist()
        return int(start + height * (3 * width or 1))


@dataclass(frozen=True)
class _Read:
    """A sample on its way into the cache. keys: of its pictures, None for one that cannot be read at all."""

    sample: Sample | None
    keys: tuple[str | None, ...] = ()


class DecodedSource(Source):
    """Another source, its pictures taken from the cache; `fill` must have run.

    Samples of pictures and captions come from the cache whole, so that the source is not touched again; of others
    (chats, boxes, videos) the pictures come from the cache and the rest from the source. What the source cannot read,
    and pictures that cannot be decoded, raise the same DataError as without a cache.
    """

    def __init__(self, source: Source, transform: ImageTransform, cache: ImageCache, threads: int = 1) -> None:
        self.source, self.threads = source, threads
        if cache.crops is not None and transform.augment is None:
            raise RecipeError("data.cache.crops: processor.image has no 'augment', so there are no crops to draw")
        self.transform, self.crops = replace(transform, decoding="exact", asked_decoding="exact"), cache.crops
        # Only crops that are still to be drawn need more than the pixels that they end in.
        whole = transform.augment is not None and cache.crops is None
        self.side = cache.side or round(transform.size * _SPARE) if whole else None
        self.folder = cache.place() / self._mark()

    def fill(self, console: Console) -> None:
        """Reads every sample, and decodes the pictures that are not there yet; can be stopped and repeated.

        Pictures are known by their content, so changed data never meet old pixels. Raises DataError if the disk has no
        room.
        """
        # Sample i has the pictures _rows[_firsts[i] : _firsts[i + 1]] and the line _text[_lines[i] : _lines[i + 1]],
        # an empty one if it is the source's to tell.
        self._lines, self._firsts, self._rows = array("q", [0]), array("q", [0]), array("q")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder / "lock"), ThreadPoolExecutor(self.threads) as pool:
                self.images = DecodedImages(self.folder)
                with tempfile.TemporaryFile(dir=self.folder) as text:  # of this run alone, gone with it
                    self._fill(pool, text, console)
                    text.flush()
                    self._text = _mapped(text, self._lines[-1])
                self.images.map()
        except OSError as error:
            raise DataError(f"cannot write decoded pictures to {self.folder}: {error.strerror or error}") from error

    def __len__(self) -> int:
        return len(self.source)

    def at(self, position: int, seed: int) -> int:
        return self.source.at(position, seed)

    def blocks(self) -> Blocks | None:
        return self.source.blocks()

    def called(self, index: int) -> str:
        return self.source.called(index)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        rows = self._rows[self._firsts[index] : self._firsts[index + 1]]
        first, last = self._lines[index], self._lines[index + 1]
        if first == last:
            sample = self.source[index]
            kept = iter(rows)
            parts = tuple(
                self._image(next(kept, -1), part).placed(part.role, part.target) if isinstance(part, Image) else part
                for part in sample.parts
            )
            return replace(sample, parts=parts)
        record = json.loads(self._text[first:last].tobytes())
        parts = tuple(self._image(row) for row in rows)
        return Sample(
            record["key"], parts, captions=tuple(record["captions"]), label=record["label"], meta=record["meta"]
        )

    def _image(self, row: int, without: Image | None = None) -> Image:
        if row < 0:
            assert without is not None  # a picture that was not read sends its sample to the source
            return without
        pixels_uint8 = self.images.at(row)
        return Views(pixels_uint8) if self.side is None else Image(pixels_uint8)

    def _fill(self, pool: ThreadPoolExecutor, text: BinaryIO, console: Console) -> None:
        checked = False
        starts = range(0, len(self.source), _CHUNK)
        for start in track(starts, description="decoding pictures", console=console, transient=True):
            chunk = list(pool.map(self._read, range(start, min(start + _CHUNK, len(self.source)))))
            new = {
                key: image
                for entry in chunk
                if entry.sample is not None
                for key, image in zip(entry.keys, entry.sample.images, strict=True)
                if key is not None and key not in self.images.keys.places
            }
            if new and not checked:
                self._check_room(len(self.source) - start)
                checked = True
            self.images.add(pool.map(self._made, new, new.values()))
            for entry in chunk:
                self._note(entry, text)

    def _read(self, index: int) -> _Read:
        try:
            sample = self.source[index]
        except DataError:  # raised again when the sample is asked for
            return _Read(None)
        return _Read(sample, tuple(_key(image) for image in sample.images))

    def _made(self, key: str, image: Image) -> tuple[str, NDArray[np.uint8] | str]:
        try:
            return key, self._decoded(image)
        except DataError as error:
            return key, str(error)

    def _decoded(self, image: Image) -> NDArray[np.uint8]:
        if self.crops is not None:
            whole = Image(image.pixels_uint8())
            # Drawn from the content, so that a cache made in two sittings is the one made in one.
            drawn = (np.random.default_rng([int(image.key, 16), at]) for at in range(self.crops))
            return np.concatenate([self.transform.pixels_uint8(whole, generator) for generator in drawn])
        if self.side is None:
            return self.transform.pixels_uint8(image)
        decoded = image.decode()
        size = _shrunk(decoded.size, self.side)
        return np.asarray(decoded) if size == decoded.size else resized(decoded, size, self.transform.interpolation)

    def _note(self, read: _Read, text: BinaryIO) -> None:
        line = _line(read.sample) if read.sample is not None and None not in read.keys else b""
        text.write(line)
        self._lines.append(self._lines[-1] + len(line))
        self._rows.extend(self.images.keys.places[key] if key is not None else -1 for key in read.keys)
        self._firsts.append(len(self._rows))

    def _check_room(self, samples: int) -> None:
        """Raises DataError unless the disk can hold the pictures of that many samples."""
        step = max(1, samples // _MEASURED)
        sizes = [size for at in range(len(self) - samples, len(self), step) if (size := self._stored_size(at))]
        needed = int(samples * float(np.mean(sizes))) if sizes else 0
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise DataError(
                f"decoded, the pictures of {samples:,} samples need about {needed / 1e9:.1f} GB, but {self.folder} has "
                f"{free / 1e9:.1f} GB free; set data.cache.folder to a place with more room"
            )

    def _stored_size(self, index: int) -> int:
        """Bytes of a sample's decoded pictures, from their headers; 0 if they cannot be read."""
        try:
            sizes = [image.size for image in self.source[index].images]
        except DataError:
            return 0
        if self.side is None:
            return len(sizes) * self.transform.size**2 * 3 * (self.crops or 1)
        return sum(3 * width * height for width, height in (_shrunk(size, self.side) for size in sizes))

    def _mark(self) -> str:
        """A hash of all that decides what is stored of a picture, besides its content."""
        settings = dump(replace(self.transform, std=(1.0, 1.0, 1.0)))  # it does not matter
        chosen = {"interpolation": settings["interpolation"]} if self.side is not None else settings
        return _hash([_VERSION, PIL.__version__, self.side, self.crops, chosen])


def _key(image: Image) -> str | None:
    try:
        return image.key
    except DataError:  # raised again when the sample is asked for
        return None


def _shrunk(size: tuple[int, int], side: int) -> tuple[int, int]:
    """The size with its shorter side scaled down to `side`; never enlarged."""
    scale = min(1.0, side / min(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _line(sample: Sample) -> bytes:
    """A sample of pictures and captions as a line of JSON; nothing for one that JSON does not hold whole."""
    whole = replace(sample, boxes=(), questions=(), negatives=(), preference=None)
    if whole != sample or len(sample.images) != len(sample.parts):
        return b""
    record = {
        "key": sample.key,
        "captions": list(sample.captions),
        "label": sample.label,
        "meta": dict(sample.meta),
    }
    try:
        line = json.dumps(record)
    except (TypeError, ValueError):
        return b""
    return line.encode() + b"\n" if json.loads(line) == record else b""


def _hash(value: object) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).hexdigest()


def _mapped(file: BinaryIO, size: int) -> NDArray[np.uint8]:
    """A file's bytes, read when they are touched. Writable, for torch wants that, but what is written stays here."""
    if size == 0:
        return np.empty(0, np.uint8)
    return np.memmap(file, np.uint8, "c", shape=(size,)).view(np.ndarray)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Waits for other processes that fill the same folder."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
