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

from chiasm.data.decoding import MAX_PIXELS, decoder
from chiasm.data.image import Image
from chiasm.data.resizing import Decoding, Interpolation, resized, resized_fast, resized_window

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training pictures
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

_SPARE = 2.0  # how many times larger than needed a picture is decoded at least; nearer to 1 it differs by more


Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


@dataclass(frozen=True)
class View:
    """A view of a picture: `box` of it, scaled to `scaled`, (width, height), the window at `corner` taken out.

    corner: (left, top); below zero where the window is larger than what was scaled, and is filled up around it.
    """

    box: Box
    scaled: tuple[int, int]
    corner: tuple[int, int] = (0, 0)
    mirrored: bool = False

    def inside(self, side: int) -> Box:
        """The part of the window, a square of that side, that lies in the scaled picture."""
        (left, top), (width, height) = self.corner, self.scaled
        return max(0, left), max(0, top), min(width, left + side), min(height, top + side)


class Views(Image):
    """A picture as a transform sees it, not to be scaled and cut again; where it crops at random, several such views,
    drawn beforehand, one below the other: (count * size, size, 3)."""

    __slots__ = ()

    def drawn(self, generator: np.random.Generator | None) -> NDArray[np.uint8]:
        """A random one of the views, (size, size, 3); the first where there is no generator."""
        pixels_uint8 = self.pixels_uint8()
        side = pixels_uint8.shape[1]
        at = 0 if generator is None else int(generator.integers(len(pixels_uint8) // side))
        return pixels_uint8[at * side : (at + 1) * side]


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

    def drawn(self, size: tuple[int, int], generator: np.random.Generator) -> tuple[Box, bool]:
        """A random crop of a picture of (width, height), and whether it is mirrored.

        A random resized crop (Szegedy et al. 2015): area uniform, aspect uniform in its logarithm.
        Whole pixels, ten tries, then the largest middle crop of an allowed aspect: as torchvision does.
        """
        width, height = size
        for _ in range(10):
            at_area, at_aspect, across, down = generator.random(4)
            area = width * height * (self.area[0] + at_area * (self.area[1] - self.area[0]))
            aspect = self.aspect[0] * (self.aspect[1] / self.aspect[0]) ** at_aspect
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
                break
        else:
            w = max(1, min(width, round(height * self.aspect[1])))
            h = max(1, min(height, round(width / self.aspect[0])))
            left, top = (width - w) // 2, (height - h) // 2
        return (left, top, left + w, top + h), bool(generator.random() < self.flip)


@dataclass(frozen=True)
class ImageTransform:
    """Image -> (3, height, width) float pixels.

    size: height and width in pixels.
    resize: "crop" scales the shorter side to the size and takes the middle (CLIP); "squash" scales both sides and
        changes the aspect (SigLIP); "pad" scales the longer side and pads; "none" takes the middle as it is.
    decoding: how pictures of training batches are made: "exact" as transformers makes them, by Pillow; "fast" with
        simplejpeg and torch, JPEGs at a reduced size where that suffices; a grey level or less off, on average.
    asked_decoding: the same for pictures that a model is asked about, in evaluation too.
    resize_to: what "crop" and "squash" scale to before they take the middle of `size` out; None: to `size`.
    centre: where the middle begins if half of the rest is no whole pixel: "down", as in transformers, or to the next
        "even" one, as in torchvision and so in open_clip.
    fill: the colour around a padded picture; None: the mean colour. What "crop" and "none" lack is black.
    """

    size: int = 224
    resize: Literal["crop", "squash", "pad", "none"] = "crop"
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    augment: Augment | None = None
    decoding: Decoding = "exact"
    asked_decoding: Decoding = "exact"
    resize_to: int | None = None
    centre: Literal["down", "even"] = "down"
    fill: tuple[int, int, int] | None = None

    def __call__(self, image: Image, generator: np.random.Generator | None = None) -> Tensor:
        """The picture's pixels. generator: draws the augmentation in training; None where a model is asked."""
        return self.normalised(self.pixels_uint8(image, generator))

    def pixels_uint8(self, image: Image, generator: np.random.Generator | None = None) -> NDArray[np.uint8]:
        """The picture's pixels, (size, size, 3) uint8, before they are normalised."""
        if isinstance(image, Views):
            return image.drawn(generator)
        fast = (self.asked_decoding if generator is None else self.decoding) == "fast"
        return self._fast(image, generator) if fast else self._exact(image, generator)

    def seen(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The part of a picture of (width, height) seen without augmentation: x0, y0, x1, y1 as shares of its sides."""
        view = self._view(size, None)
        (left, top, right, bottom), (width, height) = view.inside(self.size), view.scaled
        return left / width, top / height, right / width, bottom / height

    def require_decoders(self) -> None:
        """Raises MissingExtra where a package is missing that `decoding` or `asked_decoding` needs."""
        if "fast" in (self.decoding, self.asked_decoding):
            decoder()

    def normalised(self, levels_HWC: NDArray[np.uint8], out_CHW: Tensor | None = None) -> Tensor:
        """Normalised (3, H, W) floats of uint8 pixels, (H, W, 3). out_CHW: where to, instead of a new tensor."""
        out = torch.empty(3, *levels_HWC.shape[:2]) if out_CHW is None else out_CHW
        pixels, std = out.numpy(), np.array(self.std)
        scale, shift = (1 / 255 / std).astype(np.float32), (-np.array(self.mean) / std).astype(np.float32)
        pixels[...] = levels_HWC.transpose(2, 0, 1)  # in steps, for numpy is slow where types are mixed
        pixels *= scale[:, None, None]
        pixels += shift[:, None, None]
        return out

    def shown(self, pixels_CHW: Tensor) -> NDArray[np.uint8]:
        """The inverse of `normalised`: pixels as a picture that one can look at, (H, W, 3) uint8."""
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        values = (pixels_CHW * std[:, None, None] + mean[:, None, None]) * 255
        return values.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()

    def _exact(self, image: Image, generator: np.random.Generator | None) -> NDArray[np.uint8]:
        """The pixels of a view by Pillow, as transformers' own processors and torchvision's random crop make them."""
        decoded = image.decode()
        view = self._view(decoded.size, generator)
        return self._by_pillow(decoded, view.box, view)

    def _fast(self, image: Image, generator: np.random.Generator | None) -> NDArray[np.uint8]:
        """The pixels of the same view, of a JPEG decoded at no more than the size that it takes."""
        jpeg = image.jpeg()
        if jpeg is None:
            pixels_uint8 = image.pixels_uint8()
            view = self._view((pixels_uint8.shape[1], pixels_uint8.shape[0]), generator)
            box = view.box
        else:
            view = self._view(jpeg.size, generator)
            pixels_uint8 = jpeg.pixels_uint8(_eighths(view))
            across, down = pixels_uint8.shape[1] / jpeg.size[0], pixels_uint8.shape[0] / jpeg.size[1]
            left, top, right, bottom = view.box
            box = int(left * across), int(top * down), math.ceil(right * across), math.ceil(bottom * down)
        if self._is_long(view):
            return self._by_pillow(PIL.Image.fromarray(np.ascontiguousarray(pixels_uint8)), box, view)
        left, top, right, bottom = box
        scaled = resized_fast(pixels_uint8[top:bottom, left:right], view.scaled, self.interpolation)
        return self._window(scaled, view)

    def _by_pillow(self, image: PIL.Image.Image, box: Box, view: View) -> NDArray[np.uint8]:
        if self._is_long(view):
            inside = resized_window(image, view.scaled, view.inside(self.size), self.interpolation)
            return self._framed(inside, view)
        if box != (0, 0, *image.size):
            image = image.crop(box)
        return self._window(resized(image, view.scaled, self.interpolation), view)

    def _view(self, size: tuple[int, int], generator: np.random.Generator | None) -> View:
        """The view of a picture of (width, height)."""
        side = self.size
        if generator is not None and self.augment is not None:
            box, mirrored = self.augment.drawn(size, generator)
            return View(box, (side, side), mirrored=mirrored)
        width, height = size
        match self.resize:
            case "none":
                scaled = size
            case "squash":
                scaled = (self._scaled_side, self._scaled_side)
            case "crop":
                # The longer side is cut down, not rounded, as transformers and torchvision do.
                to = self._scaled_side
                scaled = (to, int(to * height / width)) if width <= height else (int(to * width / height), to)
            case "pad":
                ratio = max(width, height) / side
                scaled = max(1, round(width / ratio)), max(1, round(height / ratio))
                corner = -((side - scaled[0]) // 2), -((side - scaled[1]) // 2)
                return View((0, 0, width, height), scaled, corner)
        return View((0, 0, width, height), scaled, (self._start(scaled[0] - side), self._start(scaled[1] - side)))

    @property
    def _scaled_side(self) -> int:
        return self.size if self.resize_to is None else self.resize_to

    def _start(self, rest: int) -> int:
        """Where the middle begins on a side that is `rest` pixels too long, or too short."""
        if self.centre == "down":
            return rest // 2
        return round(rest / 2) if rest > 0 else -(-rest // 2)

    @property
    def around(self) -> tuple[int, int, int]:
        """The colour around a padded picture."""
        red, green, blue = self.fill or (round(255 * mean) for mean in self.mean)
        return red, green, blue

    @staticmethod
    def _is_long(view: View) -> bool:
        """Whether the picture is so long that it would not fit into memory once its shorter side is scaled up."""
        return view.scaled[0] * view.scaled[1] > MAX_PIXELS

    def _window(self, scaled_HWC: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
        left, top, right, bottom = view.inside(self.size)
        return self._framed(scaled_HWC[top:bottom, left:right], view)

    def _framed(self, inside_HWC: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
        """The pixels of the window, with the missing ones around them filled."""
        height, width, _ = inside_HWC.shape
        if (width, height) == (self.size, self.size):
            return inside_HWC[:, ::-1] if view.mirrored else inside_HWC
        page = np.zeros((self.size, self.size, 3), np.uint8)
        if self.resize == "pad":
            page[:] = self.around
        left, top = max(0, -view.corner[0]), max(0, -view.corner[1])
        page[top : top + height, left : left + width] = inside_HWC
        return page


def _eighths(view: View) -> int:
    """The smallest of 1/8, 2/8, 4/8 of a JPEG's size that leaves the resize enough to average over, or 8/8.

    libjpeg-turbo has fast transforms for these sizes alone.
    """
    left, top, right, bottom = view.box
    needed = _SPARE * max(view.scaled[0] / (right - left), view.scaled[1] / (bottom - top))
    return next((eighths for eighths in (1, 2, 4) if eighths / 8 >= needed), 8)
