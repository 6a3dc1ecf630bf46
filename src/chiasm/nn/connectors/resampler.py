"""The Perceiver resampler as Flamingo made it (Alayrac et al. 2022, arXiv:2204.14198, section 2.1) and Idefics took it
over: it stays at the width of the image tower, with layer norms and a plain MLP. See `perceiver.py` for its successor.

Shapes: N pictures, P features, K latents, D width of the tower."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from chiasm.errors import RecipeError
from chiasm.nn.connector import ConnectorConfig
from chiasm.nn.connectors.perceiver import Connector, Layer, SharedAttention


@dataclass(frozen=True)
class Config(ConnectorConfig):
    """latents: features that are left of a picture. head_width: of each of the `heads`.

    qk_norm: whether each head's queries and keys are normalised.
    """

    latents: int = 64
    layers: int = 6
    heads: int = 16
    head_width: int = 96
    qk_norm: bool = True

    def __post_init__(self) -> None:
        if min(self.latents, self.layers, self.heads) < 1:
            raise RecipeError("a resampler needs latents, layers and heads, one of each at least")

    def build(self, features: int, width: int) -> nn.Module:
        if features != width:
            raise RecipeError(f"a resampler keeps the width of features, {features}; it cannot make {width} of it")
        layers = [
            Layer(
                SharedAttention(width, self.heads, self.heads, self.head_width, self._head_norm(), self._head_norm()),
                ReluMLP(width, 4 * width),
                *(nn.LayerNorm(width) for _ in range(3)),
            )
            for _ in range(self.layers)
        ]
        return Connector(nn.Identity(), self.latents, width, layers, nn.LayerNorm(width))

    def image_tokens(self, patches: int) -> int:  # noqa: ARG002  # as many for any picture
        return self.latents

    def _head_norm(self) -> nn.Module:
        return nn.LayerNorm(self.head_width) if self.qk_norm else nn.Identity()


class ReluMLP(nn.Module):
    """down(relu(up x)), without biases."""

    def __init__(self, width: int, mlp_width: int) -> None:
        super().__init__()
        self.up, self.act, self.down = (
            nn.Linear(width, mlp_width, bias=False),
            nn.ReLU(),
            nn.Linear(mlp_width, width, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))
