"""CLIP's modified ResNet (Radford et al. 2021, arXiv:2103.00020, section 2.4), after He et al. 2015, arXiv:1512.03385.

It differs from a plain ResNet in three places: the stem has three convolutions and pools by averaging; where a block
shrinks its picture, it averages before a convolution of stride 1, in the block and beside it, so that nothing aliases
(Zhang 2019, arXiv:1904.11486); and the last average is replaced by one layer of attention, queried by that average.

Shapes: N images, C channels, H and W pixels, P places of the last grid, D width."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.data.batch import Images
from chiasm.nn.patch_mask import PatchMask
from chiasm.nn.tower import ImageTowerConfig, PooledImageTower, refuse_mask

_EXPANSION = 4  # a block's output has four times the channels that it works in
_SHRINKS = 32  # pixels of the picture, along a side, for one position of the last grid


@dataclass(frozen=True)
class Config(ImageTowerConfig):
    """image_size in pixels. channels: of the stem; the features have 32 times as many.

    layers: blocks in each of the four stages. heads: of the pooling attention.
    """

    image_size: int
    channels: int
    layers: tuple[int, int, int, int]
    heads: int

    def build(self) -> ResNet:
        return ResNet(self)

    def grid(self) -> tuple[int, int]:
        return self.image_size, self.image_size // _SHRINKS


class ResNet(PooledImageTower):
    """A stem, four stages of bottleneck blocks, and attention pooling.

    The pooled features are the concatenated heads. The published model maps them straight into the shared space, with
    a bias; that map is the `head`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        channels = config.channels
        self.config, self.width, self.image_size = config, channels * 8 * _EXPANSION, config.image_size
        self.stem = nn.ModuleList(
            [
                ConvNorm(3, channels // 2, kernel=3, stride=2),
                ConvNorm(channels // 2, channels // 2, kernel=3),
                ConvNorm(channels // 2, channels, kernel=3),
            ]
        )
        self.stages = nn.ModuleList()
        incoming = channels
        for stage, depth in enumerate(config.layers):
            inner, blocks = channels * 2**stage, nn.Sequential()
            for block in range(depth):
                blocks.append(Bottleneck(incoming, inner, shrink=2 if stage > 0 and block == 0 else 1))
                incoming = inner * _EXPANSION
            self.stages.append(blocks)
        self.pool = AttentionPool(self.width, config.heads, positions=(config.image_size // _SHRINKS) ** 2)

    def forward(self, images: Images, mask: PatchMask | None = None) -> Tensor:
        return self.pool(self.tokens(images, mask))

    def tokens(self, images: Images, mask: PatchMask | None = None) -> Tensor:
        """The last grid, row by row, (N, P, D)."""
        refuse_mask(self, mask)
        x_NCHW = self.pixels(images)
        for part in self.stem:
            x_NCHW = F.relu(part(x_NCHW))
        x_NCHW = F.avg_pool2d(x_NCHW, 2)
        for stage in self.stages:
            x_NCHW = stage(x_NCHW)
        return x_NCHW.flatten(2).transpose(1, 2)

    @property
    def takes_masks(self) -> bool:
        return False

    def unread(self, layer: int) -> tuple[nn.Module, ...]:
        return (*super().unread(layer), self.pool)

    def head(self, width: int) -> nn.Linear:
        return nn.Linear(self.width, width)


class ConvNorm(nn.Module):
    """A convolution that keeps the size (but for its stride), and batch normalisation."""

    def __init__(self, incoming: int, outgoing: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(incoming, outgoing, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outgoing)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.norm(self.conv(x_NCHW))


class Bottleneck(nn.Module):
    """Fewer channels, a 3x3 convolution, more channels, and the way round it.

    shrink: how many times smaller the picture leaves it, along each side.
    """

    def __init__(self, incoming: int, inner: int, shrink: int) -> None:
        super().__init__()
        outgoing = inner * _EXPANSION
        self.shrink = shrink
        self.reduce = ConvNorm(incoming, inner, kernel=1)
        self.mix = ConvNorm(inner, inner, kernel=3)
        self.expand = ConvNorm(inner, outgoing, kernel=1)
        self.shortcut = ConvNorm(incoming, outgoing, kernel=1) if shrink > 1 or incoming != outgoing else None
        nn.init.zeros_(self.expand.norm.weight)  # a block starts as the identity

    def forward(self, x_NCHW: Tensor) -> Tensor:
        inner_NCHW = F.relu(self.mix(F.relu(self.reduce(x_NCHW))))
        if self.shrink > 1:
            inner_NCHW, x_NCHW = F.avg_pool2d(inner_NCHW, self.shrink), F.avg_pool2d(x_NCHW, self.shrink)
        round_NCHW = x_NCHW if self.shortcut is None else self.shortcut(x_NCHW)
        return F.relu(self.expand(inner_NCHW) + round_NCHW)


class AttentionPool(nn.Module):
    """One layer of attention over all positions and their mean, queried by the mean; there is no output projection."""

    def __init__(self, width: int, heads: int, positions: int) -> None:
        super().__init__()
        self.heads = heads
        self.position = nn.Parameter(torch.empty(positions + 1, width))
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        for linear in (self.q, self.k, self.v):
            nn.init.normal_(linear.weight, std=width**-0.5)
        nn.init.normal_(self.position, std=width**-0.5)

    def forward(self, x_NPD: Tensor) -> Tensor:
        """(N, D)."""
        x_NPD = torch.cat([x_NPD.mean(1, keepdim=True), x_NPD], dim=1) + self.position
        q, k, v = (
            linear(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for linear, x in ((self.q, x_NPD[:, :1]), (self.k, x_NPD), (self.v, x_NPD))
        )
        return F.scaled_dot_product_attention(q, k, v).flatten(1)
