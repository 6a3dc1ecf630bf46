"""NaFlex: a ViT for pictures of any aspect ratio and number of patches (SigLIP 2, arXiv:2502.14786, section 2.4), after
NaViT (arXiv:2307.06304) and FlexiViT (arXiv:2212.08013).

Differs from the published code: a batch is filled up to its largest picture, not to a fixed number of patches. What
fills it up is never attended to, so that nothing but the time changes."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.data.batch import Images, PatchImages
from chiasm.errors import DataError, RecipeError
from chiasm.nn.attention import Activation, Block, init_transformer
from chiasm.nn.grid_positions import on_grids
from chiasm.nn.image_towers import vit
from chiasm.nn.image_towers.vit import MapPool
from chiasm.nn.patch_mask import PatchMask
from chiasm.nn.tower import ImageTower, ImageTowerConfig, PooledImageTower


@dataclass(frozen=True)
class Config(ImageTowerConfig):
    """patch in pixels; hidden is the MLP's width. Pictures are pooled by attention with one learned query.

    positions: how many position embeddings are learned, a square; they are resized to each picture's own grid.
    mask_token: whether the tower learns a vector for hidden patches.
    """

    patch: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    positions: int = 256
    act: Activation = "gelu_tanh"
    epsilon: float = 1e-6
    mask_token: bool = False

    def __post_init__(self) -> None:
        if math.isqrt(self.positions) ** 2 != self.positions:
            raise RecipeError(f"positions must be a square number, not {self.positions}")

    @property
    def side(self) -> int:
        """Rows, and columns, of the learned positions."""
        return math.isqrt(self.positions)

    def build(self) -> PatchTower:
        return NaFlex(self)

    def square(self) -> vit.Config:
        """The ViT that does the same with square pictures of `positions` patches."""
        shape = (self.side * self.patch, self.patch, self.width, self.layers, self.heads, self.mlp_width)
        return vit.Config(*shape, pool="map", act=self.act, pre_norm=False, epsilon=self.epsilon)


class PatchTower(ImageTower):
    """Patches of pictures of different shapes, and a transformer over each picture's own.

    How learned positions are spread over a picture, and how its tokens become one vector, is up to the subclass.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.width, self.patch = config, config.width, config.patch
        width = config.width
        self.embed = nn.Linear(3 * config.patch**2, width)
        self.position = nn.Parameter(torch.empty(config.positions, width))
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.mlp_width, config.act, config.epsilon) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width, config.epsilon)
        init_transformer(self.blocks, width)
        nn.init.normal_(self.position, std=width**-0.5)
        if config.mask_token:
            self.mask_token = nn.Parameter(torch.empty(width))
            nn.init.normal_(self.mask_token, std=width**-0.5)

    def tokens(self, images: Images, mask: PatchMask | None = None) -> Tensor:
        """Normalised tokens, (N, P, D); what stands behind a picture's own patches means nothing."""
        return self.norm(self._blocks(images, mask)[0])

    @abstractmethod
    def _spread(self, rows: int, columns: int) -> Tensor:
        """The positions of a picture of so many patches, (rows * columns, D)."""

    def _blocks(self, images: Images, hidden: PatchMask | None) -> tuple[Tensor, Tensor | None]:
        """The tokens, and which are of pictures; see `patch_mask`."""
        if not isinstance(images, PatchImages):
            raise DataError(
                "this tower is given patches, not whole pictures; set processor.patches, or processor.layout"
            )
        if images.pixels.shape[-1] != self.embed.in_features:
            raise DataError(
                f"this tower sees patches of {self.config.patch}x{self.config.patch} pixels ({self.embed.in_features} "
                f"values), but was given {images.pixels.shape[-1]} values a patch; set the patch of "
                "processor.patches or processor.layout"
            )
        x_NPD, mask_NP = self.embed(images.pixels.to(self.position.dtype)), patch_mask(images)
        if hidden is not None:
            x_NPD = hidden.replaced(x_NPD)
        x_NPD = x_NPD + on_grids(images.grid_M2, images.pixels.shape[1], self._spread)
        if hidden is not None:
            x_NPD, mask_NP = hidden.kept(x_NPD, mask_NP)
        mask = mask_NP[:, None, None] if mask_NP is not None else None
        for block in self.blocks:
            x_NPD = block(x_NPD, mask=mask)
        return x_NPD, mask_NP


class NaFlex(PatchTower, PooledImageTower):
    """One vector a picture by attention; positions are resized to its grid."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.pool = MapPool(config.square())

    def forward(self, images: Images, mask: PatchMask | None = None) -> Tensor:
        x_NPD, mask_NP = self._blocks(images, mask)
        return self.pool(self.norm(x_NPD), mask_NP[:, None, None] if mask_NP is not None else None)

    def _spread(self, rows: int, columns: int) -> Tensor:
        side = self.config.side
        learned_1DHW = self.position.float().view(1, side, side, -1).permute(0, 3, 1, 2)
        grid_1DHW = F.interpolate(learned_1DHW, (rows, columns), mode="bilinear", align_corners=False, antialias=True)
        return grid_1DHW.flatten(2)[0].T.to(self.position.dtype)


def patch_mask(images: Images) -> Tensor | None:
    """(N, P): True where a patch is of a picture, False where it fills a row up; None where all are of pictures."""
    assert isinstance(images, PatchImages)
    counts_N, longest = images.grid_M2.prod(dim=1), images.pixels.shape[1]
    if bool((counts_N == longest).all()):
        return None
    return torch.arange(longest, device=counts_N.device) < counts_N[:, None]
