"""Videos that are read lazily, beside OpenCV's reader, and frames chosen as transformers chooses them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from chiasm.config import dump, parse
from chiasm.data.contact_sheet import contact_sheet
from chiasm.data.frame_sampling import FrameSampling, spread
from chiasm.data.image import Image
from chiasm.data.layout import Layout
from chiasm.data.layouts.aspect_tiles import AspectTiles
from chiasm.data.layouts.packed import PackedPatches
from chiasm.data.sample import Sample, Text
from chiasm.data.video import MAX_SECONDS, Poster, Video
from chiasm.errors import DataError, MissingExtra, RecipeError
from tests.shared_data import shared_data

av: Any = pytest.importorskip("av", reason="videos are read with PyAV: pip install 'chiasm[video]'")
cv2: Any = pytest.importorskip("cv2", reason="the independent reader: pip install 'chiasm[data]'")

WIDTH, HEIGHT, RATE = 64, 48, 10


def film(file: Path, codec: str = "libx264", count: int = 35, times: Sequence[int] | None = None) -> Path:
    """A clip of moving noise; its key frames are 12 apart. times: of frames, in 1/100 of a second."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH + count, 3), np.uint8)
    with av.open(file, "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.gop_size = WIDTH, HEIGHT, 12
        stream.pix_fmt = "yuv420p"
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 100)
        for at in range(count):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(noise[:, at : at + WIDTH]), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[at], Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def by_opencv(file: Path) -> list[NDArray[np.uint8]]:
    reader, frames = cv2.VideoCapture(str(file)), []
    while (read := reader.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    return frames


@pytest.mark.parametrize(
    ("codec", "ending"), [("libx264", "mp4"), ("mpeg4", "mp4"), ("ffv1", "mkv"), ("libx264", "mkv")]
)
def test_frames_size_and_duration_are_those_of_another_reader(codec: str, ending: str, tmp_path: Path) -> None:
    file = film(tmp_path / f"film.{ending}", codec)
    video, expected = Video(file), by_opencv(file)
    assert (video.size, video.count, video.rate) == ((WIDTH, HEIGHT), 35, RATE)
    assert video.duration == pytest.approx(3.5)
    assert len(expected) == 35
    indices = (0, 1, 5, 5, 11, 12, 13, 30, 34)  # within and across groups of pictures, and one again
    found = list(video.read(indices))
    for at, frame in zip(indices, found, strict=True):
        assert np.array_equal(frame.pixels_uint8(), expected[at]), at
    assert video.times(indices) == pytest.approx([at / RATE for at in indices])
    assert found[2] is found[3]


def test_times_of_a_film_whose_rate_varies(tmp_path: Path) -> None:
    times = [0, 5, 10, 60, 61, 200]
    video = Video(film(tmp_path / "film.mkv", count=6, times=times))
    assert video.times(range(6)) == pytest.approx([time / 100 for time in times])
    assert len({frame.key for frame in video.read(range(6))}) == 6


@pytest.mark.parametrize("name", ["video_0.mov", "video_90.mov", "video_180.mov", "video_270.mov", "unordered.mov"])
def test_films_of_cameras_stand_upright(name: str) -> None:
    file = shared_data("video") / "containers" / name
    video, expected = Video(file), by_opencv(file)
    assert video.size == (expected[0].shape[1], expected[0].shape[0])
    found = [frame.pixels_uint8() for frame in video.read(range(video.count))]
    assert len(found) == len(expected)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_file_without_a_count_in_its_header_is_counted() -> None:
    video = Video(shared_data("video") / "containers" / "flipping_a_pancake.mkv")
    assert (video.size, video.count, video.rate) == ((426, 240), 310, 30)
    last = video.read((309,))
    assert np.array_equal(next(last).pixels_uint8(), by_opencv(Path(str(video.source)))[309])


def test_nothing_is_read_before_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = Video(tmp_path / "film.mp4")
    Sample("a", (video, Text("What?", role="user")))
    film(tmp_path / "film.mp4")
    decoded = []
    whole = av.VideoFrame.to_ndarray

    def counted(frame: Any, **options: Any) -> Any:
        decoded.append(frame.pts)
        return whole(frame, **options)

    monkeypatch.setattr("chiasm.data.video._pixels", lambda frame: counted(frame, format="rgb24"))
    layout = PackedPatches(sampling=FrameSampling(frames=4))
    assert layout.frame_indices(video) == (0, 8, 17, 26)
    assert layout.written_video(*video.size, 4).startswith("<|vision_start|>")
    assert not decoded
    frames = layout.frames(video)
    next(frames)
    assert len(decoded) == 1
    assert len(list(frames)) == 3
    assert len(decoded) == 4


def test_equal_films_have_equal_keys(tmp_path: Path) -> None:
    file = film(tmp_path / "film.mp4")
    inside = Video(file.read_bytes())
    assert Video(file).key == Video(str(file)).key == inside.key != Video(film(tmp_path / "other.mp4", count=5)).key
    assert inside.count == 35
    frames = tuple(Video(file).read((0, 1)))
    assert Video(frames, (0.0, 0.1)).key != Video(frames, (0.0, 0.2)).key


def test_a_film_in_a_store_is_read_by_range(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="URLs are read with fsspec: pip install 'chiasm[data]'")
    file = film(tmp_path / "film.mp4")
    fsspec.filesystem("memory").pipe("/films/film.mp4", file.read_bytes())
    video = Video("memory://films/film.mp4")
    assert (video.key, video.count, video.name) == (Video(file).key, 35, "memory://films/film.mp4")
    assert np.array_equal(next(video.read((20,))).pixels_uint8(), by_opencv(file)[20])
    with pytest.raises(DataError, match=r"there is nothing at memory://films/other.mp4"):
        _ = Video("memory://films/other.mp4").count


def test_frames_that_were_given_are_a_video_too(tmp_path: Path) -> None:
    frames = tuple(Video(film(tmp_path / "film.mp4")).read((0, 10, 20)))
    video = Video(frames, (0.0, 1.0, 2.0))
    assert (video.size, video.count, video.rate, video.duration) == ((WIDTH, HEIGHT), 3, 1.0, 2.0)
    assert tuple(video.read((0, 2))) == (frames[0], frames[2])
    assert video.times((1,)) == (1.0,)
    assert PackedPatches().frame_indices(video) == (0, 1, 2)  # they were chosen before
    assert PackedPatches(sampling=FrameSampling(fps=2.0, max_frames=2)).frame_indices(video) == (0, 1)
    with pytest.raises(DataError, match="must have one size"):
        _ = Video((frames[0], Image(np.zeros((8, 8, 3), np.uint8))), (0.0, 1.0)).size


# --- which frames


@pytest.mark.parametrize("rate", [10.0, 23.976, 30.0, 60.0])
@pytest.mark.parametrize("total", [4, 7, 35, 100, 311, 4001])
def test_frames_are_chosen_as_transformers_does(total: int, rate: float) -> None:
    pytest.importorskip("torchvision", reason="transformers' video processors need it")
    from transformers import InternVLVideoProcessor, Qwen2VLVideoProcessor
    from transformers.video_utils import VideoMetadata

    clip = _Clip(total, rate)
    facts = VideoMetadata(total_num_frames=total, fps=rate)
    for fps in (0.5, 2.0, 5.0):
        theirs = Qwen2VLVideoProcessor().sample_frames(facts, fps=fps)
        ours = PackedPatches(sampling=FrameSampling(fps=fps, min_frames=4)).frame_indices(clip)
        assert list(ours) == theirs.tolist(), fps
    for frames in (2, 4, 8, 32):
        if frames > total:
            continue
        theirs = InternVLVideoProcessor().sample_frames(facts, num_frames=frames, initial_shift=True)
        assert (
            list(AspectTiles(sampling=FrameSampling(frames=frames, centred=True)).frame_indices(clip))
            == theirs.tolist()
        )


class _Clip(Video):
    """Has so many frames at a rate, and no picture."""

    def __init__(self, total: int, rate: float) -> None:
        super().__init__(b"")
        self._facts = total, rate

    @property
    def count(self) -> int:
        return self._facts[0]

    @property
    def rate(self) -> float:
        return self._facts[1]


def test_spread_by_hand() -> None:
    """Ten places, four of them: starts of quarters of 2.5 places, and their middles."""
    assert spread(10, 4, centred=False) == (0, 2, 5, 7)
    assert spread(10, 4, centred=True) == (1, 3, 6, 8)
    assert spread(3, 3, centred=True) == (0, 1, 2)


def test_two_a_second_with_bounds_by_hand() -> None:
    """A film of 3.5 seconds has 7 frames at 2 a second, of which a multiple of 2 is 6; one of 0.7 seconds has 4."""
    sampling = FrameSampling(fps=2.0, min_frames=4, multiple=2)
    assert len(sampling.indices(_Clip(35, 10.0))) == 6
    assert len(sampling.indices(_Clip(7, 10.0))) == 4
    assert len(sampling.indices(_Clip(1, 10.0))) == 1
    assert len(FrameSampling(fps=2.0, max_frames=16).indices(_Clip(3000, 10.0))) == 16
    assert len(FrameSampling().indices(_Clip(35, 10.0))) == 35


def test_layouts_read_these_frames(tmp_path: Path) -> None:
    video = Video(film(tmp_path / "film.mp4"))
    packed = PackedPatches(video_min_pixels=28**2, video_max_pixels=56**2)
    chosen = Video(tuple(video.read(packed.frame_indices(video))), (0.0,) * 6)
    assert len(packed.images([video])) == len(packed.images([chosen]))
    assert (packed.images([video]).pixels == packed.images([chosen]).pixels).all()
    tiles = AspectTiles(size=32, image_tokens=4)
    assert tiles.images([video]).pixels.shape == (8, 3, 32, 32)
    assert tiles.written_video(*video.size, len(tiles.frame_indices(video))).count("Frame") == 8
    for layout in (packed, tiles):
        assert parse(Layout, dump(layout)) == layout  # type: ignore[type-abstract]  # a choice of the package


# --- what goes wrong, in a sentence


def _no_stream(folder: Path) -> Path:
    with av.open(folder / "sound.wav", "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return folder / "sound.wav"


def _cut_short(folder: Path) -> Path:
    file = film(folder / "cut.mp4")
    file.write_bytes(file.read_bytes()[:600])
    return file


def _playlist(folder: Path) -> Path:
    """Names another file, which must not be opened."""
    film(folder / "secret.ts", "mpeg4")
    (folder / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:3.5,\nsecret.ts\n#EXT-X-ENDLIST\n")
    return folder / "list.m3u8"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "absent.mp4", "cannot read the video .*absent.mp4: No such file"),
        (_no_stream, "sound.wav holds no video stream, only audio"),
        (_cut_short, "the video .*cut.mp4 cannot be read"),
        (_playlist, "the video .*list.m3u8 (cannot be read|holds no)"),
    ],
)
def test_a_film_that_cannot_be_read_is_named(make: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        _ = Video(make(tmp_path)).size


def test_a_frame_that_is_broken_is_named(tmp_path: Path) -> None:
    """A part of what the index points to is overwritten: counts and the first frames are known, later ones are not."""
    file, whole = film(tmp_path / "film.mp4"), Video(film(tmp_path / "whole.mp4"))
    content = bytearray(file.read_bytes())
    start = content.index(b"mdat") + (len(content) - content.index(b"mdat")) // 2
    content[start : start + 6000] = bytes(6000)
    file.write_bytes(content)
    video = Video(file)
    assert (video.count, video.size) == (35, (WIDTH, HEIGHT))
    assert np.array_equal(next(video.read((3,))).pixels_uint8(), next(whole.read((3,))).pixels_uint8())
    with pytest.raises(DataError, match=r"film.mp4"):
        list(video.read(range(video.count)))


def test_what_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chiasm.data.video.MAX_SECONDS", 3)
    with pytest.raises(DataError, match=r"35 frames of 64x48 pixels in 4 seconds; at most .* in 3 seconds"):
        _ = Video(film(tmp_path / "film.mp4")).count
    assert MAX_SECONDS == 4 * 3600


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = film(tmp_path / "film.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtra, match=r"film.mp4 needs the package 'av': pip install 'chiasm\[video\]'"):
        _ = Video(file).size


@pytest.mark.parametrize(
    "entries", [{"frames": 3, "fps": 1.0}, {"min_frames": 9, "max_frames": 3}, {"frames": 0}, {"fps": 0.0}]
)
def test_a_sampling_that_chooses_nothing_is_refused(entries: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="sampling:"):
        FrameSampling(**entries)


# --- what else sees videos


def test_a_poster_stands_for_the_whole(tmp_path: Path) -> None:
    video, other = Video(film(tmp_path / "a.mp4")), Video(film(tmp_path / "b.mp4", count=20))
    (poster,) = video.images
    assert isinstance(poster, Poster)
    assert poster.key == video.key
    assert np.array_equal(poster.pixels_uint8(), by_opencv(tmp_path / "a.mp4")[0])
    assert video.with_images(lambda _: other.poster) is other
    grey = Image(np.full((8, 8, 3), 128, np.uint8))
    assert video.with_images(lambda _: grey).frames == (grey,)
    sheet = contact_sheet([Sample("film", (video,), captions=("a film",))])
    assert sheet.width > 0
