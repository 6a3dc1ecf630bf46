"""EfficientNet-Lite as an image tower: a small convolutional network, pretrained as a package (arXiv:1905.11946)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from chiasm.data.batch import Images
from chiasm.nn import efficientnet
from chiasm.nn.patch_mask import PatchMask
from chiasm.nn.tower import ImageTowerConfig, PooledImageTower, refuse_mask


@dataclass(frozen=True)
class Config(ImageTowerConfig):
    """variant: which of the published five.

    power: each channel, averaged over the picture, is raised to it; 0.5 keeps a few strong channels from outshouting
        the rest (power normalisation, Perronnin et al. 2010, "Improving the Fisher kernel").
    image_size: of the pictures, in pixels, where a model needs to know it; what the variant was trained at where None.
    """

    variant: Literal["lite0", "lite1", "lite2", "lite3", "lite4"] = "lite0"
    power: float = 1.0
    image_size: int | None = None

    def build(self) -> EfficientNetLiteTower:
        return EfficientNetLiteTower(self)

    def grid(self) -> tuple[int, int]:
        side = self.image_size or efficientnet.SIZES[self.variant].resolution
        return side, math.ceil(side / efficientnet.STRIDE)


class EfficientNetLiteTower(PooledImageTower):
    """The last map, its patches averaged; sees pictures of any size."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        sizes = efficientnet.SIZES[config.variant]
        self.net, self.width, self.power = sizes.build(), sizes.width, config.power

    def forward(self, images: Images, mask: PatchMask | None = None) -> Tensor:
        refuse_mask(self, mask)
        return self.net.pooled(self.pixels(images)) ** self.power  # ReLU6 is the last step, so nothing is negative

    def tokens(self, images: Images, mask: PatchMask | None = None) -> Tensor:
        refuse_mask(self, mask)
        return self.net(self.pixels(images))

    @property
    def takes_masks(self) -> bool:
        return False
