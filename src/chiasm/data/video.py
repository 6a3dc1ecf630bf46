"""A video whose frames are decoded when a layout asks for them, and no others."""

from __future__ import annotations

import copy
import hashlib
import io
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from chiasm.data.image import MAX_PIXELS, Image
from chiasm.data.locations import Location, Url, place
from chiasm.errors import DataError, MissingExtra

MAX_SECONDS = 4 * 3600  # of a video; a longer one is an error
MAX_FRAMES = 1_000_000  # likewise; what is known of each is kept, some 16 bytes
_ROTATING = {"mov", "mp4"}  # containers that say how a camera was held


@dataclass(frozen=True)
class _Index:
    """What a file says of its video. times: presentation time of each frame, in order; keys: those of key frames.

    base: seconds of a unit of time. rate: frames a second. duration: seconds.
    """

    width: int
    height: int
    rate: float
    duration: float
    base: float
    start: int
    times: tuple[int, ...]
    keys: tuple[int, ...]


class Video:
    """A video given as a path, a URL, encoded bytes, or as frames with their times; nothing is read until asked.

    source: where it is, or its frames in order of time, at least one. seconds: of given frames, the time of each from
        the start of the clip. role: as of an Image, whose turn of a chat it belongs to.
    A file is read with PyAV (`chiasm[video]`), the stream that FFmpeg calls best; its index is read without decoding.
    Frames are RGB, turned as the camera was held. Raises DataError, naming the video, if it is missing, broken, holds
    no video, or is longer or larger than MAX_SECONDS, MAX_FRAMES, MAX_PIXELS; MissingExtra without PyAV.
    """

    def __init__(
        self,
        source: str | Location | bytes | Sequence[Image],
        seconds: Sequence[float] | None = None,
        *,
        role: str = "",
    ) -> None:
        self.role = role
        if not isinstance(source, (str, Path, Url, bytes)):
            self.frames: tuple[Image, ...] | None = tuple(source)
            self.source: Location | bytes = b""
            self.seconds = tuple(seconds) if seconds is not None else ()
            self._check_frames()
            return
        if seconds is not None:
            raise DataError("a video that is read from a file has times of its own; give seconds with frames alone")
        self.frames, self.seconds = None, ()
        self.source = source if isinstance(source, bytes) else place(source)

    def _check_frames(self) -> None:
        assert self.frames is not None
        if not self.frames:
            raise DataError("a video has no frames; give at least one, or leave it out")
        if len(self.frames) != len(self.seconds):
            raise DataError(f"a video has {len(self.frames)} frames but {len(self.seconds)} time stamps; give one each")

    def __repr__(self) -> str:
        return f"Video({self.name})"

    def placed(self, role: str) -> Self:
        """The same video in a turn of that role."""
        video = copy.copy(self)
        video.role = role
        return video

    @property
    def name(self) -> str:
        """The video's name in errors: its location, or what it is where it has none."""
        if self.frames is not None:
            return f"<{len(self.frames)} frames from {self.frames[0].name}>"
        return f"<{len(self.source)} bytes>" if isinstance(self.source, bytes) else str(self.source)

    @cached_property
    def key(self) -> str:
        """A hash of the content: equal videos have equal keys, wherever they come from. Reads, does not decode."""
        digest = hashlib.blake2b(digest_size=16)
        if self.frames is not None:
            digest.update(repr([(frame.key, at) for frame, at in zip(self.frames, self.seconds, strict=True)]).encode())
            return digest.hexdigest()
        with self._file() as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of its frames as seen."""
        if self.frames is None:
            return self._index.width, self._index.height
        sizes = {frame.size for frame in self.frames}
        if len(sizes) > 1:
            raise DataError(f"the frames of a video must have one size, not {sorted(sizes)}")
        return sizes.pop()

    @property
    def count(self) -> int:
        """The number of frames."""
        return len(self._index.times) if self.frames is None else len(self.frames)

    @property
    def rate(self) -> float:
        """The mean number of frames a second; 0 of a single frame that was given."""
        if self.frames is None:
            return self._index.rate
        elapsed = self.seconds[-1] - self.seconds[0]
        return (len(self.frames) - 1) / elapsed if elapsed > 0 else 0.0

    @property
    def duration(self) -> float:
        """The duration in seconds; of given frames the time of the last one."""
        return self._index.duration if self.frames is None else self.seconds[-1]

    def times(self, indices: Sequence[int]) -> tuple[float, ...]:
        """The presentation times of the frames, in seconds from the start."""
        if self.frames is not None:
            return tuple(self.seconds[at] for at in indices)
        index = self._index
        return tuple((index.times[at] - index.start) * index.base for at in indices)

    def read(self, indices: Sequence[int]) -> Iterator[Image]:
        """Frames by their numbers, in ascending order, each decoded when it is taken; a number may come again.

        Only what lies between a frame and the key frame before it is decoded beside it.
        """
        if list(indices) != sorted(indices):
            raise ValueError(f"frames are read in ascending order, not {list(indices)}")
        if self.frames is not None:
            yield from (self.frames[at] for at in indices)
            return
        wanted = [self._index.times[at] for at in indices]
        with self._opened() as (container, stream):
            last: Image | None = None
            at: int | None = None  # the time of the frame that was decoded last
            frames = container.decode(stream)
            for number, time in zip(indices, wanted, strict=True):
                if at != time or last is None:
                    key = self._index.keys[max(0, bisect_right(self._index.keys, time) - 1)]
                    if at is None or key > at:
                        container.seek(key, stream=stream)
                        frames = container.decode(stream)
                    frame = next((frame for frame in frames if frame.pts is not None and frame.pts >= time), None)
                    if frame is None or frame.pts != time or frame.is_corrupt:
                        raise DataError(f"frame {number} of the video {self.name} cannot be decoded: it is broken")
                    at, last = time, Image(_pixels(frame))
                yield last

    @property
    def poster(self) -> Image:
        """The first frame, as an image that stands for the whole: decoded when needed, with the video's own key."""
        return Poster(self)

    @property
    def images(self) -> tuple[Image, ...]:
        """The frames that were given; else the poster alone."""
        return self.frames if self.frames is not None else (self.poster,)

    def with_images(self, other: Callable[[Image], Image]) -> Video:
        """The video with other images in place of its own; what a poster becomes stands for the whole."""
        if self.frames is not None:
            return Video(tuple(other(frame) for frame in self.frames), self.seconds)
        instead = other(self.poster)
        return instead.video if isinstance(instead, Poster) else Video((instead,), (0.0,))

    @cached_property
    def _index(self) -> _Index:
        with self._opened() as (container, stream):
            packets = [packet for packet in container.demux(stream) if packet.pts is not None and not packet.is_discard]
            times = sorted(packet.pts for packet in packets)
            if not times:
                raise DataError(f"the video {self.name} holds no frames")
            base = float(stream.time_base)
            seconds = float(container.duration / 1e6) if container.duration else (times[-1] - times[0]) * base
            if stream.duration:
                seconds = float(stream.duration * stream.time_base)
            width, height = stream.width, stream.height
            if seconds > MAX_SECONDS or len(times) > MAX_FRAMES or width * height > MAX_PIXELS:
                raise DataError(
                    f"the video {self.name} has {len(times):,} frames of {width}x{height} pixels in {seconds:,.0f} "
                    f"seconds; at most {MAX_FRAMES:,} frames of {MAX_PIXELS:,} pixels in {MAX_SECONDS:,} seconds are "
                    "read, so cut it or scale it down"
                )
            rate = float(stream.average_rate or len(times) / max(seconds, base))
            if _ROTATING & set(container.format.name.split(",")):  # PyAV tells the rotation with a frame alone
                container.seek(times[0], stream=stream)
                first = next(container.decode(stream), None)
                if first is not None and first.rotation % 180:
                    width, height = height, width
            keys = sorted(packet.pts for packet in packets if packet.is_keyframe)
            start = stream.start_time if stream.start_time is not None else times[0]
            return _Index(width, height, rate, seconds, base, start, tuple(times), tuple(keys) or (times[0],))

    @contextmanager
    def _file(self) -> Iterator[BinaryIO]:
        if isinstance(self.source, bytes):
            yield io.BytesIO(self.source)
            return
        try:
            opened = self.source.open() if isinstance(self.source, Url) else self.source.open("rb")
        except OSError as error:
            raise DataError(f"cannot read the video {self.source}: {error.strerror or error}") from error
        with opened as file:
            yield file

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        """(container, its video stream); errors of FFmpeg become DataErrors that name the video."""
        try:
            import av
        except ModuleNotFoundError as error:
            raise MissingExtra("av", "video", f"reading the video {self.name}") from error
        with self._file() as file:
            try:
                # A playlist could name other files and addresses; with no protocol allowed, none is opened.
                with av.open(file, options={"protocol_whitelist": "none"}) as container:
                    stream = container.streams.best("video")
                    if stream is None:
                        raise DataError(f"{self.name} holds no video stream, only {_kinds(container)}")
                    yield container, stream
            except av.FFmpegError as error:
                raise DataError(f"the video {self.name} cannot be read: {error.strerror or error}") from error


class Poster(Image):
    """The first frame of a video that stands for it where an image is asked for; see `Video.poster`."""

    __slots__ = ("_first", "video")

    def __init__(self, video: Video) -> None:
        super().__init__(b"")  # nothing of it is here yet
        self.video = video
        self._first: bytes | None = None

    @property
    def name(self) -> str:
        return self.video.name

    @property
    def key(self) -> str:
        return self.video.key

    def encoded(self) -> bytes:
        if self._first is None:
            self._first = next(self.video.read((0,))).encoded()
        return self._first


def _pixels(frame: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(H, W, 3) RGB of a frame of PyAV, turned as it is to be seen: its rotation counts degrees against the clock."""
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))


def _kinds(container: Any) -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
