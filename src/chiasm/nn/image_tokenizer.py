"""Image tokenizers: images as codes of a codebook, and back (VQ-VAE, van den Oord et al. 2017, arXiv:1711.00937)."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from chiasm.data.batch import Images
from chiasm.data.image import Image


class ImageTokenizer(Protocol):
    """Encodes each image as P codes of K, and decodes them. codes: K."""

    @property
    def codes(self) -> int: ...

    def encode(self, images: Images) -> Tensor:
        """(N, P) codes from 0 to K - 1, row by row of the image."""

    def decode(self, codes_NP: Tensor) -> list[Image]:
        """The N images that these codes stand for. Raises CapabilityError for a tokenizer without a decoder."""
