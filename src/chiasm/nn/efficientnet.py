"""EfficientNet-Lite: a small convolutional image tower (Tan & Le 2019, arXiv:1905.11946; Lite variants, Liu 2020).

The Lite variants drop squeeze-and-excitation, take ReLU6 for swish, and keep the widths of stem and head whatever the
multiplier. Differs from the paper: no classifier and no stochastic depth, as the tower is loaded and tuned here, not
trained from nothing. Lite variants: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite

Shapes: N images, C channels, H and W pixels, P patches, D width."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.errors import RecipeError

STEM, HEAD = 32, 1280  # channels; the Lite variants do not scale them
STRIDE = 32  # pixels a side that one patch of the last map stands for


@dataclass(frozen=True)
class Stage:
    """Blocks of one resolution: the published base, before the multipliers."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    width: int


STAGES = (  # table 1 of the paper
    Stage(repeats=1, kernel=3, stride=1, expansion=1, width=16),
    Stage(repeats=2, kernel=3, stride=2, expansion=6, width=24),
    Stage(repeats=2, kernel=5, stride=2, expansion=6, width=40),
    Stage(repeats=3, kernel=3, stride=2, expansion=6, width=80),
    Stage(repeats=3, kernel=5, stride=1, expansion=6, width=112),
    Stage(repeats=4, kernel=5, stride=2, expansion=6, width=192),
    Stage(repeats=1, kernel=3, stride=1, expansion=6, width=320),
)


@dataclass(frozen=True)
class Config:
    """A Lite variant: multipliers of widths and depths, and the pixels a side that it was trained at."""

    width_multiplier: float = 1.0
    depth_multiplier: float = 1.0
    resolution: int = 224

    def __post_init__(self) -> None:
        if min(self.width_multiplier, self.depth_multiplier, self.resolution) <= 0:
            raise RecipeError(f"multipliers and resolution of an EfficientNet must be positive, not {self}")

    @property
    def width(self) -> int:
        """D, the width of the features."""
        return HEAD

    @property
    def patches(self) -> int:
        """P, the patches of a picture at the config's resolution."""
        return math.ceil(self.resolution / STRIDE) ** 2

    def build(self) -> EfficientNetLite:
        return EfficientNetLite(self)


SIZES = {
    "lite0": Config(1.0, 1.0, 224),
    "lite1": Config(1.0, 1.1, 240),
    "lite2": Config(1.1, 1.2, 260),
    "lite3": Config(1.2, 1.4, 280),
    "lite4": Config(1.4, 1.8, 300),
}


class ConvNorm(nn.Module):
    """Convolution without bias, TensorFlow's "same" padding, batch norm: (N, C, H, W) -> (N, C', ⌈H/s⌉, ⌈W/s⌉)."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        # At stride 1, "same" is the symmetric padding that the convolution does itself. At stride 2 it depends on the
        # size: an even side is padded on the right alone.
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)  # TensorFlow's 0.99 is the share that is kept
        self.kernel, self.stride = kernel, stride
        # Fan-out of one group, as in the paper's code; a depthwise filter would otherwise start far too small.
        nn.init.normal_(self.conv.weight, std=math.sqrt(2 / (kernel**2 * outputs / groups)))

    def forward(self, map_NCHW: Tensor) -> Tensor:
        if self.stride > 1:
            height, width = (self._same(side) for side in map_NCHW.shape[-2:])
            map_NCHW = F.pad(map_NCHW, (width // 2, width - width // 2, height // 2, height - height // 2))
        if self.training:
            return self.norm(self.conv(map_NCHW))
        # With fixed statistics the norm is a factor and an offset a channel. On the filters they cost next to nothing,
        # on the maps nearly half of the tower's time.
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert variance is not None
        scale = self.norm.weight * torch.rsqrt(variance + self.norm.eps)
        offset = self.norm.bias - mean * scale
        filters = self.conv.weight * scale[:, None, None, None]
        return F.conv2d(map_NCHW, filters, offset, self.conv.stride, self.conv.padding, groups=self.conv.groups)

    def _same(self, side: int) -> int:
        """Zeros to add along a side so that ⌈side / stride⌉ outputs fit."""
        return max((math.ceil(side / self.stride) - 1) * self.stride + self.kernel - side, 0)


class Block(nn.Module):
    """Inverted bottleneck (Sandler et al. 2018, arXiv:1801.04381): widen, filter each channel, narrow, add."""

    def __init__(self, inputs: int, outputs: int, stage: Stage, stride: int) -> None:
        super().__init__()
        inner = inputs * stage.expansion
        self.expand = ConvNorm(inputs, inner) if stage.expansion > 1 else None
        self.depthwise = ConvNorm(inner, inner, stage.kernel, stride, groups=inner)
        self.project = ConvNorm(inner, outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, map_NCHW: Tensor) -> Tensor:
        inner = map_NCHW if self.expand is None else F.relu6(self.expand(map_NCHW), inplace=True)
        narrow = self.project(F.relu6(self.depthwise(inner), inplace=True))
        return narrow + map_NCHW if self.residual else narrow


class EfficientNetLite(nn.Module):
    """Pictures to patch features: (N, 3, H, W) -> (N, P, 1280), P = ⌈H/32⌉·⌈W/32⌉ in reading order.

    Pixels are scaled to [-1, 1] (mean = std = 0.5). Any resolution works; the config's is the one trained at.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.stem = ConvNorm(3, STEM, kernel=3, stride=2)
        self.blocks = nn.ModuleList(_blocks(config))
        self.head = ConvNorm(_scaled(STAGES[-1].width, config.width_multiplier), HEAD)

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """The last map as patches (N, P, D), what attention pooling reads."""
        # Channels last is what CPU and GPU convolve fastest; the layout of the input decides it for the whole tower.
        map_NCHW = pixels_NCHW.to(next(self.parameters()).dtype).contiguous(memory_format=torch.channels_last)
        map_NCHW = F.relu6(self.stem(map_NCHW), inplace=True)
        for block in self.blocks:
            map_NCHW = block(map_NCHW)
        map_NCHW = F.relu6(self.head(map_NCHW), inplace=True)
        return map_NCHW.flatten(2).transpose(1, 2)

    def pooled(self, pixels_NCHW: Tensor) -> Tensor:
        """The mean over patches (N, D), what the ImageNet classifier of the published checkpoints reads."""
        return self(pixels_NCHW).mean(dim=1)


def port_name(name: str) -> str:
    """The name of one of our tensors in the checkpoints of the PyTorch port (`efficientnet-lite-pytorch`)."""
    parent, part, leaf = name.rsplit(".", 2)
    if parent.startswith("blocks."):
        _, index, layer = parent.split(".")
        return f"_blocks.{index}.{_PORT_BLOCK[layer, part]}.{leaf}"
    return f"{_PORT[parent, part]}.{leaf}"


_PORT = {
    ("stem", "conv"): "_conv_stem",
    ("stem", "norm"): "_bn0",
    ("head", "conv"): "_conv_head",
    ("head", "norm"): "_bn1",
}
_PORT_BLOCK = {
    ("expand", "conv"): "_expand_conv",
    ("expand", "norm"): "_bn0",
    ("depthwise", "conv"): "_depthwise_conv",
    ("depthwise", "norm"): "_bn1",
    ("project", "conv"): "_project_conv",
    ("project", "norm"): "_bn2",
}


def _blocks(config: Config) -> Iterator[Block]:
    inputs = STEM
    for at, stage in enumerate(STAGES):
        outputs = _scaled(stage.width, config.width_multiplier)
        fixed = at in (0, len(STAGES) - 1)  # as stem and head, the stages next to them are not repeated more often
        repeats = stage.repeats if fixed else math.ceil(stage.repeats * config.depth_multiplier)
        for repeat in range(repeats):
            yield Block(inputs, outputs, stage, stride=1 if repeat else stage.stride)
            inputs = outputs


def _scaled(width: int, multiplier: float) -> int:
    """A width times the multiplier, to the nearest multiple of 8, never cut by more than a tenth."""
    exact = width * multiplier
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded
