"""What the towers of a dual encoder have in common: a recipe chooses one, a model asks it for features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from chiasm.config import Component
from chiasm.data.batch import Images, PixelImages, Tokens
from chiasm.errors import DataError, RecipeError
from chiasm.nn.patch_mask import PatchMask


class ImageTower(nn.Module, ABC):
    """Pictures to features, one for each place.

    width: D of the features. image_size: the one size in pixels that it sees; None where it takes any.
    patch: the side of the patches that it is given, where it is given patches in place of whole pictures.
    prefix: how many tokens stand before those of the grid (a class token).
    mask_token: (D,) learned with the tower, to stand in the place of hidden patches; None where it has none.
    frozen: never trained; stays in eval mode, its features may be computed once.
    """

    width: int
    image_size: int | None = None
    patch: int | None = None
    prefix: int = 0
    frozen: bool = False
    mask_token: nn.Parameter | None

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("mask_token", None)

    @abstractmethod
    def tokens(self, images: Images, mask: PatchMask | None = None) -> Tensor:
        """All features before pooling, (N, P, D). mask: what it is not to see."""

    @property
    def takes_masks(self) -> bool:
        """Whether patches can be hidden from it; the others raise DataError for a mask."""
        return True

    def pixels(self, images: Images) -> Tensor:
        """(M, C, H, W), of whole pictures or tiles, in the type of the weights.

        Raises DataError for another layout, and for another size than the one that it sees.
        """
        if not isinstance(images, PixelImages):
            raise DataError(
                f"this {type(self).__name__} sees whole pictures, but was given {type(images).__name__}; set "
                "processor.image, or the layout of pictures where the model generates"
            )
        if self.image_size is not None:
            self._require_size(images)
        return images.pixels.to(next(self.parameters()).dtype)

    def _require_size(self, images: PixelImages) -> None:
        size, (height, width) = self.image_size, images.pixels.shape[-2:]
        if (height, width) != (size, size):
            raise DataError(
                f"this {type(self).__name__} sees {size}x{size} pixels, but was given {width}x{height}; set "
                "image.size, or the layout of pictures where the model generates"
            )

    def hidden_states(self, images: Images, layer: int) -> Tensor:  # noqa: ARG002  # see `unread`
        """Features before pooling as they leave a layer, (N, P, D); -1 is the last, which all towers have."""
        return self.tokens(images)

    def unread(self, layer: int) -> Sequence[nn.Module]:
        """Parts that `hidden_states` of that layer does not use. Raises RecipeError where there is no such layer."""
        if layer != -1:
            raise RecipeError(
                f"model.layer: {type(self).__name__} gives the features of its last layer, -1, not {layer}"
            )
        return ()


class PooledImageTower(ImageTower):
    """An image tower that also makes one vector of each picture."""

    @abstractmethod
    def forward(self, images: Images, mask: PatchMask | None = None) -> Tensor:
        """One vector a picture, (N, D). mask: what it is not to see."""

    def both(self, images: Images, mask: PatchMask | None = None) -> tuple[Tensor, Tensor]:
        """What `forward` and what `tokens` gives."""
        return self(images, mask), self.tokens(images, mask)

    def head(self, width: int) -> nn.Linear:
        """A new map of the pooled features into a space of that width, of the form published with this tower."""
        return nn.Linear(self.width, width, bias=False)


def refuse_mask(tower: ImageTower, mask: PatchMask | None) -> None:
    """Raises DataError if there is a mask, for towers that have no patches."""
    if mask is not None:
        raise DataError(f"a {type(tower).__name__} sees whole pictures; no patches can be hidden from it")


class TextTower(nn.Module, ABC):
    """Texts to features; see ImageTower. vocabulary: V; context: the most tokens that it reads."""

    width: int
    vocabulary: int
    context: int
    frozen: bool = False

    @abstractmethod
    def forward(self, texts: Tokens) -> Tensor:
        """One vector a text, (B, D)."""

    @abstractmethod
    def tokens(self, texts: Tokens) -> Tensor:
        """All features before pooling, (B, T, D); what stands on padding means nothing."""


class ImageTowerConfig(Component, ABC, package="chiasm.nn.image_towers", key="tower"):
    """A recipe's choice of an image tower."""

    renamed: ClassVar[Mapping[str, str]] = {"hidden": "mlp_width"}

    @abstractmethod
    def build(self) -> ImageTower: ...

    def build_pooled(self) -> PooledImageTower:
        """The tower, where a model needs one vector of each picture. Raises RecipeError for a tower that makes none."""
        tower = self.build()
        if not isinstance(tower, PooledImageTower):
            raise RecipeError(
                f"the image tower '{self.chosen()}' makes no single vector of a picture, which this model needs"
            )
        return tower

    def grid(self) -> tuple[int, int]:
        """(pixels a side, features a side) of pictures that are all of one size, square, as models that speak see them.

        Raises RecipeError for a tower that sees pictures at their own aspect ratio.
        """
        raise RecipeError(f"the image tower '{self.chosen()}' has no grid of one size, which this model needs")


class TextTowerConfig(Component, ABC, package="chiasm.nn.text_towers", key="tower"):
    """A recipe's choice of a text tower."""

    renamed: ClassVar[Mapping[str, str]] = {"hidden": "mlp_width"}

    @abstractmethod
    def build(self) -> TextTower: ...
