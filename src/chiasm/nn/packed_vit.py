"""A ViT over pictures at their own resolution, packed one after another (Qwen2-VL, Wang et al. 2024, arXiv:2409.12191,
section 2.1; after NaViT, Dehghani et al. 2023, arXiv:2307.06304).

Where a patch stands is given by rotary positions on two axes, so pictures of any shape fit. Linear layers run over the
patches of all pictures at once; only attention keeps to one picture, or to one moment of a video.

Shapes: P patches of all pictures, D width, H heads, E width of a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from chiasm.data.batch import Images, PackedImages
from chiasm.errors import DataError, RecipeError
from chiasm.nn.attention import MLP, Activation
from chiasm.nn.decoder import DecoderBlock, GroupedAttention
from chiasm.nn.packed_attention import PackedSequences
from chiasm.nn.rotary import Rotary


@dataclass(frozen=True)
class Config:
    """patch in pixels, time in frames: what a patch spans. merge: so many, along each side, stand together.

    hidden is the MLP's width; theta: base of the rotary frequencies.
    """

    renamed: ClassVar[Mapping[str, str]] = {"hidden": "mlp_width"}

    patch: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    time: int = 2
    merge: int = 2
    act: Activation = "quick_gelu"
    epsilon: float = 1e-6
    theta: float = 10_000.0

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads or self.width // self.heads % 4:
            raise RecipeError(
                f"a width of {self.width} cannot be split into {self.heads} heads that turn on two axes: each head's "
                "width must be a multiple of 4"
            )

    @property
    def values(self) -> int:
        """Numbers that make a patch."""
        return 3 * self.time * self.patch**2

    def build(self) -> PackedViT:
        return PackedViT(self)


class PackedViT(nn.Module):
    """Patches and a transformer over each picture's own; there is no final norm."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        width, head_width = config.width, config.width // config.heads
        self.axis = Rotary(head_width // 2, config.theta)  # half of a head turns with the row, half with the column
        self.embed = nn.Linear(config.values, width, bias=False)
        self.blocks = nn.ModuleList(
            DecoderBlock(
                GroupedAttention(width, config.heads, config.heads, head_width, rotary=None, bias=True, out_bias=True),
                MLP(width, config.mlp_width, config.act),
                nn.LayerNorm(width, config.epsilon),
                nn.LayerNorm(width, config.epsilon),
            )
            for _ in range(config.layers)
        )
        _init(self)

    def forward(self, images: Images) -> Tensor:
        """(P, D). Raises DataError for pictures that are not packed patches of this tower's size."""
        if not isinstance(images, PackedImages) or images.pixels.shape[1:] != (self.config.values,):
            raise DataError(
                f"this tower sees packed patches of {self.config.values} values; set processor.layout to 'packed', "
                f"with patch {self.config.patch} and time {self.config.time}"
            )
        turns, backend = self._turns(images.grid_N2.tolist()), Apart(images.lengths_N.tolist())
        x_PD = self.embed(images.pixels.to(self.embed.weight.dtype))
        for layer, block in enumerate(self.blocks):
            x_PD = block(x_PD, turns, layer, backend)
        return x_PD

    def _turns(self, grids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Cosines and sines, (P, 1, E/2), of all patches; those that merge stand together."""
        known = {(rows, columns): _patch_positions(rows, columns, self.config.merge) for rows, columns in grids}
        places_P2 = torch.cat([known[rows, columns] for rows, columns in grids]).to(self.embed.weight.device)
        (row_cos, row_sin), (column_cos, column_sin) = (self.axis.turns(places_P2[:, axis]) for axis in (0, 1))
        return torch.cat((row_cos, column_cos), -1), torch.cat((row_sin, column_sin), -1)


class Apart:
    """An `AttentionBackend` in which every picture sees itself, whole, and no other."""

    visible = None  # beside each other they see nothing

    def __init__(self, lengths: Sequence[int]) -> None:
        self._sequences = PackedSequences(lengths)

    def __call__(self, _layer: int, q_PHE: Tensor, k_PHE: Tensor, v_PHE: Tensor, _window: int | None) -> Tensor:
        return self._sequences.attention(q_PHE, k_PHE, v_PHE, causal=False)


class PatchMerger(nn.Module):
    """Patches that stand together become one image token: normalised each, then an MLP over all of their values."""

    def __init__(self, tower: Config, width: int) -> None:
        super().__init__()
        self.values = tower.width * tower.merge**2
        self.norm = nn.LayerNorm(tower.width, tower.epsilon)
        self.up, self.act, self.down = nn.Linear(self.values, self.values), nn.GELU(), nn.Linear(self.values, width)
        _init(self)

    def forward(self, x_PD: Tensor) -> Tensor:
        """(S, width) of the S image tokens."""
        return self.down(self.act(self.up(self.norm(x_PD).view(-1, self.values))))


def _patch_positions(rows: int, columns: int, merge: int) -> Tensor:
    """(rows * columns, 2): row and column of each patch, those that merge one after another."""
    positions = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    cut = positions.view(rows // merge, merge, columns // merge, merge, 2)
    return cut.transpose(1, 2).reshape(-1, 2)


def _init(module: nn.Module) -> None:
    for linear in module.modules():
        if isinstance(linear, nn.Linear):
            nn.init.normal_(linear.weight, std=0.02)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
