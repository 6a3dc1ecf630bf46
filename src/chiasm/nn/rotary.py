"""Rotary positions (Su et al. 2021, arXiv:2104.09864), with the scaling of Llama 3 and the three axes of Qwen2-VL.

Shapes: T tokens, H heads, E width of a head."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from chiasm.errors import RecipeError


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's stretching of the slow frequencies to a longer context (its model card's `rope_scaling`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class Rotary:
    """Angles by which pairs of a head's numbers are turned.

    width: E. theta: base of the frequencies. scaling: of the slow ones.
    sections: how many of the E/2 frequencies turn with time, height and width (M-RoPE, Wang et al. 2024,
        arXiv:2409.12191); () where a position is one number.
    """

    width: int
    theta: float = 10_000.0
    scaling: Llama3Scaling | None = None
    sections: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.width % 2 or (self.sections and sum(self.sections) != self.width // 2):
            raise RecipeError(f"rotary positions: a head of {self.width} cannot be turned in sections {self.sections}")

    def turns(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each (T, 1, E/2), of positions (T,), or (3, T) with sections."""
        frequencies = self._frequencies(positions.device)
        angles = positions[..., None].float() * frequencies  # (T, E/2) or (3, T, E/2)
        if positions.ndim == 2:
            if not self.sections:
                raise ValueError("positions of three axes need sections")
            parts = torch.split(angles, list(self.sections), dim=-1)
            angles = torch.cat([part[axis] for axis, part in enumerate(parts)], dim=-1)
        return angles.cos()[:, None], angles.sin()[:, None]

    def _frequencies(self, device: torch.device) -> Tensor:
        # Computed on the CPU, as checkpoints were trained with: the last bit of a power differs between devices.
        powers = torch.arange(0, self.width, 2, dtype=torch.int64).float() / self.width
        frequencies = 1.0 / (self.theta**powers)
        if self.scaling is not None:
            frequencies = _stretched(frequencies, self.scaling)
        return frequencies.to(device)


def turn(x_THE: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Each pair (i, i + E/2) of every head turned by its angle."""
    cos, sin = (table.to(x_THE.dtype) for table in turns)
    first, second = x_THE.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _stretched(frequencies: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Slow frequencies divided by the factor, fast ones kept, those between blended."""
    length = scaling.original_max_position_embeddings
    waves = 2 * math.pi / frequencies
    slow, fast = length / scaling.low_freq_factor, length / scaling.high_freq_factor
    smooth = (length / waves - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blended = (1 - smooth) / scaling.factor * frequencies + smooth * frequencies
    stretched = torch.where(waves > slow, frequencies / scaling.factor, frequencies)
    return torch.where((waves <= slow) & (waves >= fast), blended, stretched)
