"""Conversion of transformers' image processors to and from `ImageTransform`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from chiasm.data.patches import PatchTransform
from chiasm.data.transforms import ImageTransform
from chiasm.errors import CheckpointError
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import read_section, write_json

# PIL's numbers of its filters. Nearest (0), box (4) and hamming (5) are used by no checkpoint of these families.
_Filter = Literal["lanczos", "bilinear", "bicubic"]
_FILTERS: dict[int, _Filter] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
_Three = tuple[float, float, float]


@dataclass(frozen=True)
class _Settings:
    """A `preprocessor_config.json`, with transformers' defaults.

    Older files lack the rescaling; sizes are numbers there, and mappings later.
    """

    resample: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    size: int | dict[str, int]
    crop_size: int | dict[str, int] | None = None
    do_resize: bool = True
    do_pad: Literal[False] | None = None
    do_center_crop: bool | None = None
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True


class _Levels(Protocol):
    """Settings of the normalisation of pixels."""

    @property
    def image_mean(self) -> _Three: ...
    @property
    def image_std(self) -> _Three: ...
    @property
    def do_rescale(self) -> bool: ...
    @property
    def rescale_factor(self) -> float: ...
    @property
    def do_normalize(self) -> bool: ...


def read_entries(folder: CheckpointFolder) -> tuple[Mapping[str, Any], Path]:
    """The settings of a checkpoint's image processor, and the file that they stand in: `processor_config.json`, where
    transformers 5 writes them (older files of that name lack them), or `preprocessor_config.json`."""
    entries: Mapping[str, Any] | None = folder.entries("processor_config.json").get("image_processor")
    if entries is not None:
        return entries, folder / "processor_config.json"
    return folder.required("preprocessor_config.json"), folder / "preprocessor_config.json"


def read_pixels(folder: CheckpointFolder, image_size: int) -> ImageTransform:
    """A checkpoint's transform of images, from its `processor_config.json` or `preprocessor_config.json`.

    image_size: the model's. Raises CheckpointError for a processing that we do not have, or that makes other sizes.
    """
    return pixels_of(*read_entries(folder), image_size)


def pixels_of(entries: Mapping[str, Any], file: Path, image_size: int) -> ImageTransform:
    """As `read_pixels`, of the entries of a file."""
    needed = ("resample", "image_mean", "image_std", "size")
    if lost := [key for key in needed if key not in entries]:
        raise CheckpointError(f"{file} does not say {', '.join(lost)}, without which pixels would be a guess")
    settings = read_section(_Settings(3, (0, 0, 0), (1, 1, 1), 0), entries, str(file))
    size, resize, resize_to = _size(settings, file)
    if size != image_size:
        raise CheckpointError(f"{file} makes pictures of {size} pixels, but the model sees {image_size}")
    mean, std = normalisation(settings)
    return ImageTransform(
        size,
        resize,
        filter_name(settings.resample, file),
        mean,
        std,
        resize_to=None if resize_to == size else resize_to,
    )


def normalisation(settings: _Levels) -> tuple[_Three, _Three]:
    """Mean and deviation of levels that run from 0 to 1, where the settings' run to 255, or another number."""
    top = settings.rescale_factor * 255 if settings.do_rescale else 255.0
    mean, std = (settings.image_mean, settings.image_std) if settings.do_normalize else ((0.0,) * 3, (1.0,) * 3)
    return _three(mean, top), _three(std, top)


def filter_name(resample: int, file: Path) -> _Filter:
    """Our name of PIL's filter of that number. Raises CheckpointError for one that we do not have."""
    if resample not in _FILTERS:
        raise CheckpointError(f"{file}: resample {resample} is not known; PIL's {_FILTERS} are")
    return _FILTERS[resample]


def filter_number(name: _Filter) -> int:
    """PIL's number of a filter."""
    return next(number for number, filter_ in _FILTERS.items() if filter_ == name)


def write_pixels(transform: ImageTransform | PatchTransform, kind: str, folder: Path) -> None:
    """Writes `preprocessor_config.json` for transformers' image processor of that kind ("CLIP", "Siglip").

    The middle of an image is cropped as transformers does, rounded down. Raises CheckpointError for pictures that
    are padded, which those processors do not do about the middle.
    """
    if not isinstance(transform, ImageTransform):
        raise CheckpointError("this model's tower sees whole pictures, but its processor makes patches")
    size = transform.size
    scaled = size if transform.resize_to is None else transform.resize_to
    if transform.resize == "pad":
        raise CheckpointError("transformers' image processors do not pad pictures; set image.resize to crop or squash")
    square, resized = {"height": size, "width": size}, {"height": scaled, "width": scaled}
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": f"{kind}ImageProcessor",
            "do_convert_rgb": True,
            "do_resize": transform.resize != "none",
            "size": {"shortest_edge": scaled} if transform.resize == "crop" else resized,
            "resample": filter_number(transform.interpolation),
            "do_center_crop": transform.resize != "squash" or scaled != size,
            "crop_size": square,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(transform.mean),
            "image_std": list(transform.std),
        },
    )


def _size(settings: _Settings, file: Path) -> tuple[int, Literal["crop", "squash", "none"], int]:
    """The side of the square that comes out, how it comes about, and what is resized to before the middle is taken."""
    size = {"shortest_edge": settings.size} if isinstance(settings.size, int) else settings.size
    crops = settings.do_center_crop if settings.do_center_crop is not None else "shortest_edge" in size
    crop = settings.crop_size if settings.crop_size is not None else size.get("shortest_edge", 0)
    cropped = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    side = cropped.get("height", 0) if cropped.get("height") == cropped.get("width") else 0
    match size:
        case _ if not settings.do_resize and crops and side:
            return side, "none", side
        case {"shortest_edge": scaled, **rest} if settings.do_resize and crops and side and not rest:
            return side, "crop", scaled
        case {"height": height, "width": width} if settings.do_resize and height == width and (side or not crops):
            return side if crops else height, "squash", height
    raise CheckpointError(
        f"{file}: size {settings.size} with do_resize {settings.do_resize}, do_center_crop {crops} and crop_size "
        f"{settings.crop_size} does not make one square of every picture; known are the middle of a picture whose "
        "shorter edge is resized, equal height and width, and the middle of a picture as it is"
    )


def _three(values: tuple[float, ...], top: float) -> tuple[float, float, float]:
    red, green, blue = (value / top for value in values)
    return red, green, blue
