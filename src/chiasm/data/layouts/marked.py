"""Every picture at one size, as one token that marks its place; what it shows is seen beside the stream: Flamingo
(arXiv:2204.14198), Idefics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from chiasm.data.batch import Images
from chiasm.data.chat import IMAGE
from chiasm.data.image import Image
from chiasm.data.layout import Layout, all_alike
from chiasm.data.transforms import ImageTransform


@dataclass(frozen=True)
class Marked(Layout):
    """One token a picture, which is seen by cross-attention. token: the image token.

    around: stands around it, once between pictures that touch; "" for nothing.
    until: a token after which the picture is no longer seen; "" where it is seen until the next.
    """

    transform: ImageTransform = field(default_factory=ImageTransform)
    token: str = "<image>"  # noqa: S105  # a token of text, no secret
    around: str = ""
    until: str = ""

    @property
    def image_token(self) -> str:
        return self.token

    @property
    def alike(self) -> ImageTransform:
        return self.transform

    @property
    def marks(self) -> tuple[str, ...]:
        return (self.around,) if self.around else ()

    def written(self, width: int, height: int) -> str:  # noqa: ARG002  # one size fits all
        return self.around + self.token + self.around

    def beside(self, written: str, following: str) -> str:
        return written.removesuffix(self.around) if following == IMAGE else written

    def images(self, images: Sequence[Image], generators: Sequence[np.random.Generator] | None = None) -> Images:
        return all_alike(self.transform, images, generators)
