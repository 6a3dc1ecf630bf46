"""Every image at one size, as codes of an image tokenizer: CM3Leon, Chameleon.

A processor knows no image tokenizer: it writes a placeholder for each code, which the model's own tokenizer
fills (see models/early_fusion.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from chiasm.data.batch import Images
from chiasm.data.image import Image
from chiasm.data.image_codes import ImageCodes
from chiasm.data.layout import Layout, all_alike
from chiasm.data.transforms import ImageTransform
from chiasm.errors import RecipeError


@dataclass(frozen=True)
class Codes(Layout):
    """Images as codes. codes: the codebook's size, K. image_tokens: codes of an image. token: placeholder of a code.

    begin, end: tokens around an image's codes. name: the token of a code, its number in the place of "{}".
    digits: how the ten digits of that number are written; Chameleon's code 12 is "IMGIMGBCZ", with "ABCDEFGHIJ".
    """

    codes: int
    image_tokens: int
    transform: ImageTransform = field(default_factory=ImageTransform)
    token: str = "<image>"  # noqa: S105  # a token of text, no secret
    begin: str = "<begin_image>"
    end: str = "<end_image>"
    name: str = "<image_{}>"
    digits: str = "0123456789"

    def __post_init__(self) -> None:
        if self.codes < 1 or self.image_tokens < 1:
            raise RecipeError(
                f"processor.layout: an image of {self.image_tokens} tokens of {self.codes} codes is none; "
                "give at least one of each"
            )
        if self.name.count("{}") != 1 or len(set(self.digits)) != 10:
            raise RecipeError("processor.layout: name must hold '{}' once, and digits must be ten different characters")

    @property
    def image_token(self) -> str:
        return self.token

    @property
    def alike(self) -> ImageTransform:
        return self.transform

    @property
    def marks(self) -> tuple[str, ...]:
        return (self.begin, self.end, *self.image_codes.names)

    @cached_property
    def image_codes(self) -> ImageCodes:
        written = str.maketrans("0123456789", self.digits)
        names = tuple(self.name.replace("{}", str(code).translate(written)) for code in range(self.codes))
        return ImageCodes(names, self.image_tokens, self.begin, self.end)

    def written(self, width: int, height: int) -> str:  # noqa: ARG002  # one size fits all
        return self.begin + self.token * self.image_tokens + self.end

    def images(self, images: Sequence[Image], generators: Sequence[np.random.Generator] | None = None) -> Images:
        return all_alike(self.transform, images, generators)
