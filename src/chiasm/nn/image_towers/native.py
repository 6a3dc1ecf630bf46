"""A ViT at a picture's own aspect ratio, whose patches take the nearest of the learned positions: the SigLIP inside of
Idefics2 (arXiv:2405.02246, section 3), Idefics3 and SmolVLM, after NaViT (arXiv:2307.06304).

NaFlex resizes the positions instead. What fills a batch up is never attended to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chiasm.nn.image_towers import naflex
from chiasm.nn.image_towers.naflex import PatchTower


@dataclass(frozen=True)
class Config(naflex.Config):
    """As NaFlex's. positions: how many are learned, a square over the whole picture, whatever its shape."""

    def build(self) -> Native:
        return Native(self)


class Native(PatchTower):
    """Patches of pictures of different shapes; nothing is learned beside them and the transformer."""

    config: Config

    def _spread(self, rows: int, columns: int) -> Tensor:
        down, across = (nearest(count, self.config.side) for count in (rows, columns))
        at = (down[:, None] * self.config.side + across).flatten()
        return self.position[at.to(self.position.device)]


def nearest(count: int, side: int) -> Tensor:
    """Which of `side` positions along an edge each of `count` patches takes, (count,): the bucket that it begins in.

    In 32-bit floats on the CPU, as the published code computes it: where a patch begins on an edge of two buckets, it
    is rounding that decides, and trained models expect the same.
    """
    edges = torch.arange(1 / side, 1.0, 1 / side)
    begins = torch.arange(count, dtype=torch.float32) * (1.0 / torch.tensor(count))
    return torch.bucketize(begins.clamp(max=1.0 - 1e-6), edges, right=True)
