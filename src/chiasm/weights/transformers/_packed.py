"""Conversion of transformers' image and video processors of Qwen2-VL to and from the layout `packed`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chiasm.data.frame_sampling import FrameSampling
from chiasm.data.layouts.packed import PackedPatches
from chiasm.data.transforms import OPENAI_MEAN, OPENAI_STD
from chiasm.errors import CheckpointError
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import read_section, write_json
from chiasm.weights.transformers._pixels import filter_name, filter_number, normalisation, read_entries

_VIDEO = "video_preprocessor_config.json"


@dataclass(frozen=True)
class _Settings:
    """A `preprocessor_config.json`, with transformers' defaults.

    Bounds stand in `size`, where they are called edges though they count pixels, or in entries of their own.
    """

    resample: int = 3
    image_mean: tuple[float, float, float] = OPENAI_MEAN
    image_std: tuple[float, float, float] = OPENAI_STD
    do_resize: Literal[True] = True
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2


@dataclass(frozen=True)
class _Sampling:
    """A video processor's settings of frames; the defaults are those of the authors' own code."""

    fps: float | None = 2.0
    num_frames: int | None = None
    min_frames: int = 4
    max_frames: int = 768

    def sampling(self) -> FrameSampling:
        fps = self.fps if self.num_frames is None else None
        return FrameSampling(self.num_frames, fps, self.min_frames, self.max_frames)


def read_packed(
    folder: CheckpointFolder, patch: int, merge: int, time: int, tokens: Mapping[str, str]
) -> PackedPatches:
    """The layout of a checkpoint's images and videos.

    patch, merge, time: the model's. tokens: entries of `PackedPatches`.
    Raises CheckpointError where the processor makes other patches than the model sees.
    """
    entries, file = read_entries(folder)
    settings = read_section(_Settings(), entries, str(file))
    made = (settings.patch_size, settings.merge_size, settings.temporal_patch_size)
    if made != (patch, merge, time):
        raise CheckpointError(
            f"{file} makes patches (pixels, merged, frames) of {made}, but the model sees {(patch, merge, time)}"
        )
    low, high = _bounds(entries, (4 * 28**2, 1280 * 28**2), file)
    video_low, video_high = low, high  # the older files know one processor for both
    if moving := _video_entries(folder):
        video_low, video_high = _bounds(moving, (128 * 28**2, 768 * 28**2), folder / _VIDEO)
    sampling = read_section(_Sampling(), moving, str(folder / _VIDEO)).sampling()
    mean, std = normalisation(settings)
    filter_ = filter_name(settings.resample, file)
    return PackedPatches(
        patch, merge, time, low, high, video_low, video_high, filter_, mean, std, **tokens, sampling=sampling
    )


def write_packed(layout: PackedPatches, folder: Path) -> None:
    """Writes `preprocessor_config.json` and its like for videos, for transformers' processors of Qwen2-VL."""
    common = {
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": filter_number(layout.interpolation),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(layout.mean),
        "image_std": list(layout.std),
        "patch_size": layout.patch,
        "merge_size": layout.merge,
        "temporal_patch_size": layout.time,
    }
    size = {"shortest_edge": layout.min_pixels, "longest_edge": layout.max_pixels}
    write_json(
        folder / "preprocessor_config.json", {"image_processor_type": "Qwen2VLImageProcessor", **common, "size": size}
    )
    size = {"shortest_edge": layout.video_min_pixels, "longest_edge": layout.video_max_pixels}
    sampling = layout.sampling
    frames = {"fps": sampling.fps, "min_frames": sampling.min_frames, "max_frames": sampling.max_frames}
    if sampling.frames is not None:
        frames = {"num_frames": sampling.frames, "max_frames": sampling.max_frames}
    entries = {"video_processor_type": "Qwen2VLVideoProcessor", **common, "size": size, **frames}
    write_json(folder / _VIDEO, entries)
    write_json(folder / "processor_config.json", {"processor_class": "Qwen2VLProcessor"})


def _video_entries(folder: CheckpointFolder) -> Mapping[str, Any]:
    inside = folder.entries("processor_config.json").get("video_processor")
    return inside or folder.entries(_VIDEO)


def _bounds(entries: Mapping[str, Any], defaults: tuple[int, int], file: Path) -> tuple[int, int]:
    """The fewest and the most pixels of an image."""
    size = entries.get("size") or {}
    if not isinstance(size, Mapping):
        raise CheckpointError(f"{file}: size is {size!r}; it must give the fewest and the most pixels of a picture")
    found = []
    for short, edge, default in zip(
        ("min_pixels", "max_pixels"), ("shortest_edge", "longest_edge"), defaults, strict=True
    ):
        value = entries.get(short) or size.get(edge) or size.get(short) or default
        if not isinstance(value, int):
            raise CheckpointError(f"{file}: {short} is {value!r}, not a whole number")
        found.append(value)
    return found[0], found[1]
