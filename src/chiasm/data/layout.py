"""How an image becomes pixels and image tokens: its resolution, its tiles, and its tokens in a decoder's stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from chiasm.config import Component
from chiasm.data.batch import Images, PixelImages
from chiasm.data.frame_sampling import FrameSampling
from chiasm.data.image import Image
from chiasm.data.image_codes import ImageCodes
from chiasm.data.sample import Video
from chiasm.data.transforms import ImageTransform


class Layout(Component, ABC, package="chiasm.data.layouts", key="layout"):
    """One strategy of resolution. A subclass is a frozen dataclass; it is saved with the checkpoint.

    The image tokens of a picture follow from its size alone, so they are known before anything is decoded or computed.
    """

    renamed: ClassVar[Mapping[str, str]] = {"slots": "image_tokens"}

    @property
    @abstractmethod
    def image_token(self) -> str:
        """The token that keeps the place of one feature; it must be one token of the tokenizer."""

    @property
    def alike(self) -> ImageTransform | None:
        """What makes the pixels and image tokens of every image, all of them alike whatever their sizes; or None."""
        return None

    @property
    def marks(self) -> tuple[str, ...]:
        """Tokens around and between image tokens, which a tokenizer that is learned must have too."""
        return ()

    @property
    def image_codes(self) -> ImageCodes | None:
        """How images are written as codes of an image tokenizer; None where features stand in their places."""
        return None

    @property
    def placeholder_tokens(self) -> tuple[str, ...]:
        """All tokens that keep the place of a feature, each once."""
        return (self.image_token,)

    @property
    def placeholder(self) -> str:
        """How a chat template that goes with this layout writes a picture."""
        return self.image_token

    @abstractmethod
    def written(self, width: int, height: int) -> str:
        """What is written for an image of that size in pixels: image tokens, and marks around and between them."""

    def numbered(self, written: str, at: int) -> str:  # noqa: ARG002  # most do not count
        """What stands for a picture before which `at` others stand in its sample."""
        return written

    def beside(self, written: str, behind: str) -> str:  # noqa: ARG002  # most stand alike anywhere
        """What stands for a picture, given the text behind it; where another picture follows, that is IMAGE."""
        return written

    @abstractmethod
    def images(self, images: Sequence[Image], generators: Sequence[np.random.Generator] | None = None) -> Images:
        """The pixels of pictures, with row_N counting them from 0; the class says how they are laid out."""

    def positions(self, image_mask_T: Tensor, shown: Sequence[Image | Video]) -> Tensor | None:  # noqa: ARG002  # see below
        """(A, T) positions of a sample's tokens, where they have several axes; None: the place in the sample.

        image_mask_T: which tokens are image tokens. shown: what stands in them, in order.
        """
        return None


class VideoLayout(Layout):
    """A strategy that takes videos beside pictures."""

    @property
    @abstractmethod
    def video_token(self) -> str:
        """As `image_token`, of videos."""

    @property
    def placeholder_tokens(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.image_token, self.video_token)))

    @property
    @abstractmethod
    def video_placeholder(self) -> str:
        """As `placeholder`, of videos."""

    @property
    @abstractmethod
    def frame_sampling(self) -> FrameSampling:
        """Which frames of a video are read."""

    def frame_indices(self, video: Video) -> tuple[int, ...]:
        """The numbers of the frames of a video that are read; nothing of it is decoded to know them."""
        return self.frame_sampling.indices(video)

    def frames(self, video: Video) -> Iterator[Image]:
        """The frames that are read, one after the other."""
        return video.read(self.frame_indices(video))

    @abstractmethod
    def written_video(self, width: int, height: int, frames: int) -> str:
        """What stands in the text for a video of so many frames of that size."""

    @abstractmethod
    def images(
        self, images: Sequence[Image | Video], generators: Sequence[np.random.Generator] | None = None
    ) -> Images: ...


def all_alike(
    transform: ImageTransform, images: Sequence[Image], generators: Sequence[np.random.Generator] | None
) -> Images:
    """The pixels of pictures that are all made alike, (N, C, H, W)."""
    drawn = generators if generators is not None else [None] * len(images)
    pixels = torch.stack([transform(image, one) for image, one in zip(images, drawn, strict=True)])
    return PixelImages(pixels, torch.arange(len(images)))
