"""Conversion of transformers' image processor of NaFlex models to and from `PatchTransform`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chiasm.data.patches import PatchTransform
from chiasm.errors import CheckpointError
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import read_section, write_json
from chiasm.weights.transformers._pixels import filter_name, filter_number, normalisation, read_entries


@dataclass(frozen=True)
class _Settings:
    """A `preprocessor_config.json`, with transformers' defaults."""

    resample: int = 2
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    do_resize: Literal[True] = True
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    patch_size: int = 16
    max_num_patches: int = 256


def read_patches(folder: CheckpointFolder, patch: int) -> PatchTransform:
    """A checkpoint's transform of images. Raises CheckpointError where its patches are not `patch` pixels a side."""
    entries, file = read_entries(folder)
    settings = read_section(_Settings(), entries, str(file))
    if settings.patch_size != patch:
        raise CheckpointError(f"{file} makes patches of {settings.patch_size} pixels, but the model sees {patch}")
    mean, std = normalisation(settings)
    return PatchTransform(patch, settings.max_num_patches, filter_name(settings.resample, file), mean, std)


def write_patches(transform: PatchTransform, folder: Path) -> None:
    """Writes `preprocessor_config.json` for transformers' image processor of SigLIP 2."""
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "Siglip2ImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "resample": filter_number(transform.interpolation),
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(transform.mean),
            "image_std": list(transform.std),
            "patch_size": transform.patch,
            "max_num_patches": transform.max_patches,
        },
    )
