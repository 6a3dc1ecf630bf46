"""transformers' image processors to and from `ImageTransform`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chiasm.data.transforms import ImageTransform
from chiasm.errors import CheckpointError
from chiasm.weights.files import read_json, read_json_if_present, read_section, write_json

# PIL's numbers of its filters. Nearest (0), box (4) and hamming (5) are used by no checkpoint of these families.
_FILTERS: dict[int, Literal["lanczos", "bilinear", "bicubic"]] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class _Settings:
    """A `preprocessor_config.json`, with what transformers takes where it says nothing.

    Older files lack the rescaling; sizes are numbers there, and mappings later.
    """

    resample: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    size: int | dict[str, int]
    crop_size: int | dict[str, int] | None = None
    do_resize: Literal[True] = True
    do_center_crop: bool | None = None
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True


def read_pixels(folder: Path, image_size: int) -> ImageTransform:
    """How a checkpoint wants pictures, from its `processor_config.json` or `preprocessor_config.json`.

    image_size: the model's. Raises CheckpointError for a processing that we do not have, or that makes other sizes.
    """
    file = folder / "processor_config.json"  # where transformers 5 writes it; older files of that name lack it
    entries: Mapping[str, Any] | None = read_json_if_present(file).get("image_processor")
    if entries is None:
        file = folder / "preprocessor_config.json"
        entries = read_json(file)
    needed = ("resample", "image_mean", "image_std", "size")
    if lost := [key for key in needed if key not in entries]:
        raise CheckpointError(f"{file} does not say {', '.join(lost)}, without which pixels would be a guess")
    settings = read_section(_Settings(3, (0, 0, 0), (1, 1, 1), 0), entries, str(file))
    if settings.resample not in _FILTERS:
        raise CheckpointError(f"{file}: resample {settings.resample} is not known; PIL's {_FILTERS} are")
    size, resize = _size(settings, file)
    if size != image_size:
        raise CheckpointError(f"{file} makes pictures of {size} pixels, but the model sees {image_size}")
    # Levels run from 0 to `top` in their arithmetic and from 0 to 1 in ours.
    top = settings.rescale_factor * 255 if settings.do_rescale else 255.0
    mean, std = (settings.image_mean, settings.image_std) if settings.do_normalize else ((0.0,) * 3, (1.0,) * 3)
    return ImageTransform(
        size, resize, _FILTERS[settings.resample], mean=_three(mean, top), std=_three(std, top), augment=None
    )


def write_pixels(transform: ImageTransform, kind: str, folder: Path) -> None:
    """Writes `preprocessor_config.json` for transformers' image processor of that kind ("CLIP", "Siglip").

    Raises CheckpointError for pictures that are padded, which those processors do not do about the middle.
    """
    size = transform.size
    if transform.resize == "pad":
        raise CheckpointError("transformers' image processors do not pad pictures; set image.resize to crop or squash")
    square = {"height": size, "width": size}
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": f"{kind}ImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": size} if transform.resize == "crop" else square,
            "resample": next(number for number, name in _FILTERS.items() if name == transform.interpolation),
            "do_center_crop": transform.resize == "crop",
            "crop_size": square,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(transform.mean),
            "image_std": list(transform.std),
        },
    )


def _size(settings: _Settings, file: Path) -> tuple[int, Literal["crop", "squash"]]:
    """The side of the square that comes out, and how it comes about."""
    size = {"shortest_edge": settings.size} if isinstance(settings.size, int) else settings.size
    crops = settings.do_center_crop if settings.do_center_crop is not None else "shortest_edge" in size
    crop = settings.crop_size if settings.crop_size is not None else size.get("shortest_edge", 0)
    cropped = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    match size:
        case {"shortest_edge": side} if crops and cropped == {"height": side, "width": side}:
            return side, "crop"
        case {"height": height, "width": width} if height == width and not (crops and cropped != size):
            return height, "squash"
    raise CheckpointError(
        f"{file}: size {settings.size} with do_center_crop {crops} and crop_size {settings.crop_size} does not make "
        "one square of the whole picture; known are a shorter edge cropped to its own size, and equal height and width"
    )


def _three(values: tuple[float, ...], top: float) -> tuple[float, float, float]:
    red, green, blue = (value / top for value in values)
    return red, green, blue
