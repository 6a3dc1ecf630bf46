"""One tower for all windows of a picture, with a few weights of its own for each: Monkey (Li et al. 2023,
arXiv:2311.06607, section 3.1), low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685) on a frozen-born ViT.

As in the published code, the MLP's adapter reads what stands before the norm, beside the whole MLP.

Shapes: M parts, (W + 1) of each picture: its W windows, then the whole; P patches, D width."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.data.batch import Images, PixelImages
from chiasm.errors import DataError, RecipeError
from chiasm.nn.attention import Block, Runs
from chiasm.nn.image_towers import bare
from chiasm.nn.image_towers.bare import Bare
from chiasm.nn.patch_mask import PatchMask
from chiasm.nn.recompute import recomputed


@dataclass(frozen=True)
class Config(bare.Config):
    """windows: of a picture. rank, mlp_rank: of the adapters of attention and of the MLP. dropout: of what they read.

    The whole picture goes through the tower as it is.
    """

    windows: int = 6
    rank: int = 16
    mlp_rank: int = 32
    dropout: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.windows, self.rank, self.mlp_rank) < 1 or not 0 <= self.dropout < 1:
            raise RecipeError(
                f"{self.windows} windows, ranks of {self.rank} and {self.mlp_rank} and a dropout of {self.dropout:g} "
                "do not make adapters"
            )

    def build(self) -> Windowed:
        return Windowed(self)


class Windowed(Bare):
    """Windows and wholes of pictures through one transformer, each window with its own adapters."""

    config: Config

    def tokens(self, images: Images, mask: PatchMask | None = None) -> Tensor:
        """(M, P, D). Raises DataError where pictures have another number of parts."""
        parts = self.config.windows + 1
        tiles_N = images.tiles_N if isinstance(images, PixelImages) else None
        if tiles_N is None or bool((tiles_N != parts).any()):
            raise DataError(f"this tower sees {parts} parts of a picture; set processor.layout to windows")
        return super().tokens(images, mask)

    def _block(self) -> WindowBlock:
        return WindowBlock(self.config)


class WindowBlock(Block):
    """A block whose attention and MLP have adapters beside them."""

    def __init__(self, config: Config) -> None:
        width = config.width
        super().__init__(width, config.heads, config.mlp_width, config.act, config.epsilon)
        self.qkv_adapters = Adapters(width, 3 * width, config.rank, config)
        self.out_adapters = Adapters(width, width, config.rank, config)
        self.mlp_adapters = Adapters(width, width, config.mlp_rank, config)

    @recomputed
    def forward(
        self,
        x_BTD: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        runs: Runs | None = None,
        asked_BQD: Tensor | None = None,
    ) -> Tensor:
        """The block's output for whole windows. Raises DataError for a mask or packed sequences."""
        if mask is not None or causal or runs is not None or asked_BQD is not None:
            raise DataError("a block with adapters sees whole windows and nothing else")
        seen_MPD, attention = self.norm1(x_BTD), self.attention
        own = self.qkv_adapters(seen_MPD).chunk(3, dim=-1)
        q, k, v = (
            (linear(seen_MPD) + more).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            for linear, more in zip((attention.q, attention.k, attention.v), own, strict=True)
        )
        mixed_MPD = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x_MPD = x_BTD + attention.out(mixed_MPD) + self.out_adapters(mixed_MPD)
        return x_MPD + self.mlp(self.norm2(x_MPD)) + self.mlp_adapters(x_MPD)


class Adapters(nn.Module):
    """scale * up(down(x)) of each window, by its own maps; zeros for the whole. `up` begins as zeros."""

    def __init__(self, width: int, out: int, rank: int, config: Config) -> None:
        super().__init__()
        # Lists, as checkpoints hold them one by one.
        windows = range(config.windows)
        self.down = nn.ParameterList(nn.Parameter(torch.empty(rank, width)) for _ in windows)
        self.up = nn.ParameterList(nn.Parameter(torch.zeros(out, rank)) for _ in windows)
        self.scale = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in windows)
        self.dropout = nn.Dropout(config.dropout)
        for weight in self.down:
            nn.init.uniform_(weight, -(width**-0.5), width**-0.5)

    def expected_zero_grad(self) -> list[str]:
        """Names of the tensors that no gradient reaches while `up` is zeros."""
        closed = [window for window, up in enumerate(self.up) if not up.any()]
        return [f"{part}.{window}" for window in closed for part in ("down", "scale")]

    def forward(self, x_MPD: Tensor) -> Tensor:
        """(M, P, out)."""
        windows_NWPD = x_MPD.view(-1, len(self.down) + 1, *x_MPD.shape[1:])[:, :-1]
        down_WRD, up_WOR, scale_W = (torch.stack(list(weights)) for weights in (self.down, self.up, self.scale))
        low_NWPR = self.dropout(windows_NWPD) @ down_WRD.transpose(1, 2)
        made_NWPO = low_NWPR @ (up_WOR * scale_W[:, None, None]).to(up_WOR.dtype).transpose(1, 2)
        return F.pad(made_NWPO, (0, 0, 0, 0, 0, 1)).flatten(0, 1)
