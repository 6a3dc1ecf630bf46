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
        changes the aspect (SigLIP); "pad" scales the longer side and pads; "none" takes the middle as it is.
    fast: decode JPEGs at a reduced size where that suffices; a few grey levels off, much faster.
    resize_to: what "crop" and "squash" scale to before they take the middle of `size` out; None: to `size`.
    centre: where the middle begins if half of the rest is no whole pixel: "down", as in transformers, or to the next
        "even" one, as in torchvision and so in open_clip.
    fill: the levels around a padded picture; None: the mean colour. What "crop" and "none" lack is black.
    """

    size: int = 224
    resize: Literal["crop", "squash", "pad", "none"] = "crop"
    interpolation: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    augment: Augment | None = None
    fast: bool = False
    resize_to: int | None = None
    centre: Literal["down", "even"] = "down"
    fill: tuple[int, int, int] | None = None

    def __call__(self, image: Image, generator: np.random.Generator | None = None) -> Tensor:
        """The picture's pixels. generator: draws the augmentation; None, as in evaluation, means none."""
        # Twice the size needed leaves the resize enough to average over; below that the picture would blur.
        picture = image.decode(at_least=2 * self._scaled_side if self.fast and self.resize != "none" else None)
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
        side = self._scaled_side
        if picture.size == (self.size, self.size) and side == self.size:
            return picture
        match self.resize:
            case "none":
                return self._middle(picture)
            case "squash":
                return self._middle(picture.resize((side, side), filter_))
            case "crop":
                # The longer side is cut down, not rounded, as transformers and torchvision do.
                short = width <= height
                scaled = (side, int(side * height / width)) if short else (int(side * width / height), side)
                return self._middle(picture.resize(scaled, filter_))
        ratio = max(width, height) / self.size
        scaled = max(1, round(width / ratio)), max(1, round(height / ratio))
        page = PIL.Image.new("RGB", (self.size, self.size), self.around)
        page.paste(picture.resize(scaled, filter_), ((self.size - scaled[0]) // 2, (self.size - scaled[1]) // 2))
        return page

    @property
    def _scaled_side(self) -> int:
        return self.size if self.resize_to is None else self.resize_to

    def _middle(self, picture: PIL.Image.Image) -> PIL.Image.Image:
        """The middle square; what lies outside of the picture is black."""
        left, top = (self._start(whole - self.size) for whole in picture.size)
        return picture.crop((left, top, left + self.size, top + self.size))

    def _start(self, rest: int) -> int:
        """Where the middle begins on a side that is `rest` pixels too long, or too short."""
        if self.centre == "down":
            return rest // 2
        return round(rest / 2) if rest > 0 else -(-rest // 2)

    @property
    def around(self) -> tuple[int, int, int]:
        """The levels around a padded picture."""
        red, green, blue = self.fill or (round(255 * one) for one in self.mean)
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
