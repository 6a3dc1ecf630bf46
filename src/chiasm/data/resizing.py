"""Resizing, with antialiasing: by Pillow, which is the measure, or by torch, which is faster and nearly the same."""

from __future__ import annotations

from typing import Literal

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

Decoding = Literal["exact", "fast"]
Interpolation = Literal["bicubic", "bilinear", "lanczos"]

_FILTERS = {
    "bicubic": PIL.Image.Resampling.BICUBIC,
    "bilinear": PIL.Image.Resampling.BILINEAR,
    "lanczos": PIL.Image.Resampling.LANCZOS,
}


def resized(image: PIL.Image.Image, size: tuple[int, int], interpolation: Interpolation) -> NDArray[np.uint8]:
    """The picture scaled by Pillow to `size`, (width, height), as (H, W, 3)."""
    return np.asarray(image.resize(size, _FILTERS[interpolation]))


def resized_window(
    image: PIL.Image.Image, scaled: tuple[int, int], window: tuple[int, int, int, int], interpolation: Interpolation
) -> NDArray[np.uint8]:
    """The window (left, top, right, bottom) of what the picture would be, scaled; the rest of it is never made.

    For pictures that would not fit into memory. The filter sees the same pixels as if all was scaled and then cut, but
    Pillow takes the two directions in an order that depends on the sizes, and rounds in between.
    """
    across, down = image.width / scaled[0], image.height / scaled[1]
    left, top, right, bottom = window
    # Single precision may round the far edge to just outside of the picture.
    far = min(float(np.float32(right * across)), image.width), min(float(np.float32(bottom * down)), image.height)
    box = (left * across, top * down, *far)
    return np.asarray(image.resize((right - left, bottom - top), _FILTERS[interpolation], box=box))


def resized_fast(
    levels_HWC: NDArray[np.uint8], size: tuple[int, int], interpolation: Interpolation
) -> NDArray[np.uint8]:
    """The pixels scaled by torch to `size`, (width, height), as (H, W, 3); off from Pillow's by at most two of 255.

    Its kernel for bytes does in integers what Pillow does, several times faster where the processor has AVX2.
    """
    if levels_HWC.shape[1::-1] == size:
        return levels_HWC
    if interpolation == "lanczos":
        return resized(PIL.Image.fromarray(levels_HWC), size, interpolation)
    levels_HWC = np.require(levels_HWC, requirements=["C", "W"])  # as torch wants it
    # Axes in this order, for torch must see strides of channels last, or it is half as fast.
    levels_1CHW = torch.from_numpy(levels_HWC)[None].permute(0, 3, 1, 2)
    scaled = F.interpolate(levels_1CHW, size[::-1], mode=interpolation, antialias=True)
    return scaled[0].permute(1, 2, 0).numpy()
