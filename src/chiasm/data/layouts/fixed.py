"""Every picture at one size, as one row of image_tokens: LLaVA, BLIP-2, MiniGPT-4, Kosmos-2, Frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from chiasm.data.batch import Images
from chiasm.data.image import Image
from chiasm.data.layout import Layout, all_alike
from chiasm.data.transforms import ImageTransform
from chiasm.errors import RecipeError


@dataclass(frozen=True)
class Fixed(Layout):
    """Every picture at one size. image_tokens: of a picture. token: the image token. before, behind: texts around them.

    number: stands before each picture, with its number in the sample, from 1 on, for "{}".
    """

    image_tokens: int
    transform: ImageTransform = field(default_factory=ImageTransform)
    token: str = "<image>"  # noqa: S105  # a token of text, no secret
    before: str = ""
    behind: str = ""
    number: str = ""

    def __post_init__(self) -> None:
        if self.image_tokens < 1:
            raise RecipeError(f"a picture needs at least one image token, not {self.image_tokens}")

    @property
    def image_token(self) -> str:
        return self.token

    @property
    def alike(self) -> ImageTransform:
        return self.transform

    def written(self, width: int, height: int) -> str:  # noqa: ARG002  # one size fits all
        return self.before + self.token * self.image_tokens + self.behind

    def numbered(self, written: str, at: int) -> str:
        return self.number.replace("{}", str(at + 1)) + written

    def images(self, images: Sequence[Image], generators: Sequence[np.random.Generator] | None = None) -> Images:
        return all_alike(self.transform, images, generators)
