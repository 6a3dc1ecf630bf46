"""Pictures and videos at their own resolution, as packed patches: Qwen2-VL (Wang et al. 2024, arXiv:2409.12191).

A picture is resized so that its sides are whole image tokens and its pixels between two bounds; its aspect ratio
stays as near as that allows. Nothing is cut off or padded. A video is a row of pictures, each of two frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from chiasm.data.batch import Images, PackedImages
from chiasm.data.frame_sampling import FrameSampling
from chiasm.data.image import Image
from chiasm.data.layout import VideoLayout
from chiasm.data.positions import three_axes
from chiasm.data.resizing import Interpolation
from chiasm.data.sample import Video
from chiasm.data.tiles import TileTransform
from chiasm.data.transforms import OPENAI_MEAN, OPENAI_STD
from chiasm.errors import DataError, RecipeError

_NARROWEST = 200  # as the published code: the longer side over the shorter one


@dataclass(frozen=True)
class PackedPatches(VideoLayout):
    """Packed patches. patch: side of one in pixels. merge: so many patches, along each side, make one image token.

    time: frames that a patch spans; a picture stands still for that long, a video's last frame is repeated to fill it.
    min_pixels, max_pixels: bounds of a resized picture. video_min_pixels, video_max_pixels: of each frame of a video.
    sampling: which frames of a video are read, always a multiple of `time`; by default as Qwen2-VL was trained: 2 a
        second, at least 4 and at most 768.
    token, video_token: the image tokens. before, behind: around a picture or video; templates write them too.
    """

    patch: int = 14
    merge: int = 2
    time: int = 2
    min_pixels: int = 4 * 28**2
    max_pixels: int = 16_384 * 28**2
    video_min_pixels: int = 128 * 28**2
    video_max_pixels: int = 768 * 28**2
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    token: str = "<|image_pad|>"  # noqa: S105  # a token of text, no secret
    video_token: str = "<|video_pad|>"  # noqa: S105  # likewise
    before: str = "<|vision_start|>"
    behind: str = "<|vision_end|>"
    sampling: FrameSampling = field(default_factory=lambda: FrameSampling(fps=2.0, min_frames=4))

    def __post_init__(self) -> None:
        if min(self.patch, self.merge, self.time) < 1:
            raise RecipeError(
                f"patch {self.patch}, merge {self.merge} and time {self.time} of a layout must be 1 or more"
            )
        for low, high in ((self.min_pixels, self.max_pixels), (self.video_min_pixels, self.video_max_pixels)):
            if not 0 < low <= high or high < self.side**2:
                raise RecipeError(
                    f"an image cannot have between {low} and {high} pixels in image tokens of {self.side}x{self.side}"
                )

    @property
    def side(self) -> int:
        """The side of an image token in pixels."""
        return self.patch * self.merge

    @property
    def image_token(self) -> str:
        return self.token

    @property
    def placeholder(self) -> str:
        return self.before + self.token + self.behind

    @property
    def frame_sampling(self) -> FrameSampling:
        return replace(self.sampling, multiple=self.time)

    @property
    def video_placeholder(self) -> str:
        return self.before + self.video_token + self.behind

    @property
    def marks(self) -> tuple[str, ...]:
        return tuple(token for token in (self.video_token, self.before, self.behind) if token)

    def written(self, width: int, height: int) -> str:
        return self.before + self.token * math.prod(self._span(width, height)) + self.behind

    def written_video(self, width: int, height: int, frames: int) -> str:
        return self.before + self.video_token * math.prod(self._span(width, height, frames)) + self.behind

    def positions(self, image_mask_T: Tensor, shown: Sequence[Image | Video]) -> Tensor:
        return three_axes(image_mask_T, [self._span(*self._size(visual)) for visual in shown])

    def images(
        self,
        images: Sequence[Image | Video],
        generators: Sequence[np.random.Generator] | None = None,  # noqa: ARG002  # there is no augmentation
    ) -> Images:
        """Patches of all pictures one after another, (M, 3 * time * patch * patch), those of an image token together.

        Each picture, or each `time` frames of a video, counts as one.
        """
        patches, rows, grids = [], [], []
        for row, visual in enumerate(images):
            frames = self._resized(visual)
            for first in range(0, len(frames), self.time):
                patches.append(self._patches(torch.stack(frames[first : first + self.time])))
                rows.append(row)
                grids.append(tuple(side // self.patch for side in frames[0].shape[1:]))
        grid_N2 = torch.tensor(grids).view(-1, 2)
        return PackedImages(torch.cat(patches), torch.tensor(rows), grid_N2.prod(1), grid_N2)

    def _span(self, width: int, height: int, frames: int = 0) -> tuple[int, int, int]:
        """(times, rows, columns) of the image tokens of a picture, or of a video of so many frames."""
        fitted_height, fitted_width = self._fitted(width, height, moving=frames > 0)
        return max(1, -(-frames // self.time)), fitted_height // self.side, fitted_width // self.side

    def _fitted(self, width: int, height: int, moving: bool) -> tuple[int, int]:
        bounds = (self.video_min_pixels, self.video_max_pixels) if moving else (self.min_pixels, self.max_pixels)
        return fitted(height, width, self.side, *bounds)

    def _resized(self, visual: Image | Video) -> list[Tensor]:
        """The frames of an image or video, (3, H, W) each, as many as fill whole patches."""
        width, height = visual.size
        high, wide = self._fitted(width, height, moving=isinstance(visual, Video))
        transform = TileTransform(self.interpolation, self.mean, self.std)
        frames = self.frames(visual) if isinstance(visual, Video) else (visual,)
        made = [transform.at(frame.decode(), wide, high) for frame in frames]
        return made + made[-1:] * (-len(made) % self.time)

    def _size(self, shown: Image | Video) -> tuple[int, ...]:
        """The width and height of an image; of a video the number of frames too."""
        return shown.size if isinstance(shown, Image) else (*shown.size, len(self.frame_indices(shown)))

    def _patches(self, frames_TCHW: Tensor) -> Tensor:
        """(P, C * T * p * p): the patches of an image token one after another, row by row, and so the image tokens."""
        times, channels, height, width = frames_TCHW.shape
        down, across = height // self.side, width // self.side
        cut = frames_TCHW.view(times, channels, down, self.merge, self.patch, across, self.merge, self.patch)
        return cut.permute(2, 5, 3, 6, 1, 0, 4, 7).reshape(down * across * self.merge**2, -1)


def fitted(height: int, width: int, side: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The (height, width) nearest to a picture's own that are multiples of `side`, with so many pixels.

    Raises DataError for a picture that is more than 200 times as long as it is wide.
    """
    if max(height, width) > _NARROWEST * min(height, width):
        raise DataError(f"a picture of {width}x{height} pixels is too narrow; crop it to at most {_NARROWEST} to 1")
    near = round(height / side) * side, round(width / side) * side
    if math.prod(near) > max_pixels:
        ratio = math.sqrt(height * width / max_pixels)
        return max(side, int(height / ratio / side) * side), max(side, int(width / ratio / side) * side)
    if math.prod(near) < min_pixels:
        ratio = math.sqrt(min_pixels / (height * width))
        return math.ceil(height * ratio / side) * side, math.ceil(width * ratio / side) * side
    return near
