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
        """The placeholder of one image feature in text; it must be one token of the tokenizer."""

    @property
    def alike(self) -> ImageTransform | None:
        """The transform of every image where all get the same size and number of image tokens; else None."""
        return None

    @property
    def marks(self) -> tuple[str, ...]:
        """Tokens around and between image tokens, which a learned tokenizer must have too."""
        return ()

    @property
    def image_codes(self) -> ImageCodes | None:
        """The codes of an image tokenizer that write images; None where image features replace image tokens."""
        return None

    @property
    def placeholder_tokens(self) -> tuple[str, ...]:
        """All tokens that are placeholders of a feature, each once."""
        return (self.image_token,)

    @property
    def placeholder(self) -> str:
        """The text by which a chat template that goes with this layout writes a picture."""
        return self.image_token

    @abstractmethod
    def written(self, width: int, height: int) -> str:
        """The text of an image of that size in pixels: image tokens, and marks around and between them."""

    def numbered(self, written: str, at: int) -> str:  # noqa: ARG002  # most do not count
        """The text of a picture, with its number where the layout writes one. at: its index in the sample, from 0."""
        return written

    def beside(self, written: str, following: str) -> str:  # noqa: ARG002  # most stand alike anywhere
        """The text of a picture, given the text that follows it; `following` is IMAGE where another picture follows."""
        return written

    @abstractmethod
    def images(self, images: Sequence[Image], generators: Sequence[np.random.Generator] | None = None) -> Images:
        """The pixels of pictures, with row_N counting them from 0; the class says how they are laid out."""

    def positions(self, image_mask_T: Tensor, shown: Sequence[Image | Video]) -> Tensor | None:  # noqa: ARG002  # see below
        """(A, T) positions of a sample's tokens, where they have several axes; None: the index in the sample.

        image_mask_T: which tokens are image tokens. shown: what stands in them, in order.
        """
        return None


class VideoLayout(Layout):
    """A strategy that takes videos beside pictures."""

    @property
    @abstractmethod
    def video_token(self) -> str:
        """The placeholder of one feature of a video."""

    @property
    def placeholder_tokens(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.image_token, self.video_token)))

    @property
    @abstractmethod
    def video_placeholder(self) -> str:
        """The text by which a chat template writes a video."""

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
        """The text of a video of so many frames of that size: image tokens and marks."""

    @abstractmethod
    def images(
        self, images: Sequence[Image | Video], generators: Sequence[np.random.Generator] | None = None
    ) -> Images: ...


def all_alike(
    transform: ImageTransform, images: Sequence[Image], generators: Sequence[np.random.Generator] | None
) -> Images:
    """The pixels of pictures that are all made alike, (N, C, H, W)."""
    drawn = generators if generators is not None else [None] * len(images)
    pixels = torch.stack([transform(image, drawing) for image, drawing in zip(images, drawn, strict=True)])
    return PixelImages(pixels, torch.arange(len(images)))
