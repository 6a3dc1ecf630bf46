"""Pictures to pixels: resize, crop, augment, normalise. Part of a checkpoint, saved with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from chiasm.data.image import Image

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training pictures
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

_FILTERS = {
    "bicubic": PIL.Image.Resampling.BICUBIC,
    "bilinear": PIL.Image.Resampling.BILINEAR,
    "lanczos": PIL.Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Augment:
    """Random views of training pictures, drawn anew each time.

    area: smallest and largest share of the picture that a crop covers (open_clip's default is 0.9 to 1).
    aspect: narrowest and widest crop, as width / height. flip: chance of mirroring; leave it 0 where captions say
        "left" and "right".
    """

    area: tuple[float, float] = (0.9, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0


@dataclass(frozen=True)
class ImageTransform:
    """Image -> (3, height, width) float pixels.

    size: height and width in pixels.
    resize: "crop" scales the shorter side to the size and takes the middle (CLIP); "squash" scales both sides and
        changes the aspect (SigLIP); "pad" scales the longer side and pads with the mean colour.
    fast: decode JPEGs at a reduced size where that suffices; a few grey levels off, much faster.
    """

    size: int = 224
    resize: Literal["crop", "squash", "pad"] = "crop"
    interpolation: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    augment: Augment | None = None
    fast: bool = False

    def __call__(self, image: Image, generator: np.random.Generator | None = None) -> Tensor:
        """The picture's pixels. generator: draws the augmentation; None, as in evaluation, means none."""
        # Twice the size needed leaves the resize enough to average over; below that the picture would blur.
        picture = image.decode(at_least=2 * self.size if self.fast else None)
        if generator is not None and self.augment is not None:
            picture = self._augmented(picture, self.augment, generator)
        else:
            picture = self._resized(picture)
        return self.normalised(np.asarray(picture))

    def normalised(self, levels_HWC: NDArray[np.uint8]) -> Tensor:
        """uint8 grey levels, (H, W, 3), to normalised (3, H, W) floats."""
        pixels = torch.from_numpy(np.ascontiguousarray(levels_HWC.transpose(2, 0, 1))).float() / 255
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return (pixels - mean[:, None, None]) / std[:, None, None]

    def shown(self, pixels_CHW: Tensor) -> NDArray[np.uint8]:
        """The inverse of `normalised`: pixels as a picture that one can look at, (H, W, 3) uint8."""
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        levels = (pixels_CHW * std[:, None, None] + mean[:, None, None]) * 255
        return levels.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()

    def _resized(self, picture: PIL.Image.Image) -> PIL.Image.Image:
        filter_ = _FILTERS[self.interpolation]
        width, height = picture.size
        if picture.size == (self.size, self.size):
            return picture
        if self.resize == "squash":
            return picture.resize((self.size, self.size), filter_)
        if self.resize == "crop":
            # The longer side is cut down, not rounded, and the crop starts at the floor: as transformers does, so that
            # pixels agree. torchvision rounds where the crop starts: one pixel on for a rest of 3, 7, 11, ...
            scaled = (
                (self.size, int(self.size * height / width))
                if width <= height
                else (int(self.size * width / height), self.size)
            )
            left, top = (scaled[0] - self.size) // 2, (scaled[1] - self.size) // 2
            return picture.resize(scaled, filter_).crop((left, top, left + self.size, top + self.size))
        scale = self.size / max(width, height)
        scaled = max(1, round(width * scale)), max(1, round(height * scale))
        page = PIL.Image.new("RGB", (self.size, self.size), self._mean_colour())
        page.paste(picture.resize(scaled, filter_), ((self.size - scaled[0]) // 2, (self.size - scaled[1]) // 2))
        return page

    def _mean_colour(self) -> tuple[int, int, int]:
        red, green, blue = (round(255 * one) for one in self.mean)
        return red, green, blue

    def _augmented(self, picture: PIL.Image.Image, augment: Augment, generator: np.random.Generator) -> PIL.Image.Image:
        """A random resized crop (Szegedy et al. 2015): area uniform, aspect uniform in its logarithm."""
        width, height = picture.size
        box = (0.0, 0.0, float(width), float(height))  # what stands if no crop of that shape fits
        for _ in range(10):
            area = width * height * generator.uniform(*augment.area)
            aspect = math.exp(generator.uniform(math.log(augment.aspect[0]), math.log(augment.aspect[1])))
            w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
            if w <= width and h <= height:
                x, y = generator.uniform(0, width - w), generator.uniform(0, height - h)
                box = (x, y, x + w, y + h)
                break
        view = picture.resize((self.size, self.size), _FILTERS[self.interpolation], box=box)
        if generator.random() < augment.flip:
            view = view.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
        return view
