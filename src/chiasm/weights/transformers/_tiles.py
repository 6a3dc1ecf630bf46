"""Conversion of transformers' image processors that cut images into tiles to and from `TileTransform`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from chiasm.data.tiles import TileTransform
from chiasm.errors import CheckpointError
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import read_section
from chiasm.weights.transformers._pixels import filter_name, filter_number, normalisation, read_entries

_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Tiles:
    """The settings that such processors have in common. A subclass adds its own, with transformers' defaults."""

    resample: int = 3
    image_mean: tuple[float, float, float] = _HALF
    image_std: tuple[float, float, float] = _HALF
    do_resize: Literal[True] = True
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True


S = TypeVar("S", bound=Tiles)


def read_tiles(defaults: S, folder: CheckpointFolder) -> tuple[S, TileTransform, Path]:
    """The settings of a checkpoint's image processor, what they say of levels, and the file that they stand in."""
    entries, file = read_entries(folder)
    settings = read_section(defaults, entries, str(file))
    return settings, TileTransform(filter_name(settings.resample, file), *normalisation(settings)), file


def tiles_section(transform: TileTransform, kind: str) -> dict[str, Any]:
    """The entries of `preprocessor_config.json` that such processors have in common; kind: of the processor."""
    return {
        "image_processor_type": f"{kind}ImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": filter_number(transform.interpolation),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(transform.mean),
        "image_std": list(transform.std),
        "do_pad": True,
    }


def one_side(size: dict[str, int] | int, name: str, file: Path) -> int:
    """The one number of a size: of its shortest or longest edge, or of equal height and width."""
    sides = {size} if isinstance(size, int) else set(size.values())
    if len(sides) != 1:
        raise CheckpointError(f"{file}: {name} is {size}; one number is expected, or a mapping that has only one")
    return sides.pop()
