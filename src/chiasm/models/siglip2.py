"""SigLIP 2: multilingual vision-language encoders (Tschannen et al. 2025, arXiv:2502.14786).

The models with a fixed resolution are SigLIPs in all but their data and their tokenizer (Gemma's, 256,000 tokens, lower
case); their published files call themselves so, and are opened as such. NaFlex models see pictures at their own aspect
ratio, in as many patches as one likes.

Differs from the paper: of its losses only the sigmoid loss is here. The captioning decoder and the self-distillation
that it was trained with beside that are not part of the published models."""

from __future__ import annotations

from dataclasses import dataclass

from chiasm.models import siglip
from chiasm.nn.image_towers import naflex, vit
from chiasm.nn.text_towers import transformer
from chiasm.nn.tower import ImageTowerConfig


@dataclass(frozen=True)
class Config(siglip.Config):
    """As SigLIP's; the vision tower may be `naflex`."""

    @classmethod
    def model(cls) -> type[SigLIP2]:
        return SigLIP2


class SigLIP2(siglip.SigLIP):
    """Two towers, of which only the text's has a head; every pair of the batch is judged on its own."""

    config: Config


# width, layers, hidden, heads of the published towers.
_BASE, _LARGE, _SO400M, _GIANT = (
    (768, 12, 3072, 12),
    (1024, 24, 4096, 16),
    (1152, 27, 4304, 16),
    (1536, 40, 6144, 16),
)
_Shape = tuple[int, int, int, int]


def _text(shape: _Shape) -> transformer.Config:
    """It reads 64 tokens of Gemma's tokenizer."""
    width, layers, mlp_width, heads = shape
    return transformer.Config(256_000, 64, width, layers, heads, mlp_width, causal=False, act="gelu_tanh", epsilon=1e-6)


def _vit(shape: _Shape, image_size: int, patch: int) -> vit.Config:
    width, layers, mlp_width, heads = shape
    return vit.Config(
        image_size, patch, width, layers, heads, mlp_width, "map", "gelu_tanh", pre_norm=False, epsilon=1e-6
    )


def _naflex(shape: _Shape) -> naflex.Config:
    width, layers, mlp_width, heads = shape
    return naflex.Config(16, width, layers, heads, mlp_width)


_SMALL: tuple[ImageTowerConfig, ...] = (siglip.SIZES["small"].vision, naflex.Config(16, 128, 4, 2, 512, positions=16))

SIZES = {
    "b-32-256": Config(_vit(_BASE, 256, 32), _text(_BASE)),
    **{f"b-16-{size}": Config(_vit(_BASE, size, 16), _text(_BASE)) for size in (224, 256, 384, 512)},
    **{f"l-16-{size}": Config(_vit(_LARGE, size, 16), _text(_LARGE)) for size in (256, 384, 512)},
    **{f"so400m-14-{size}": Config(_vit(_SO400M, size, 14), _text(_SO400M)) for size in (224, 384)},
    **{f"so400m-16-{size}": Config(_vit(_SO400M, size, 16), _text(_SO400M)) for size in (256, 384, 512)},
    # The largest image towers stand beside the text tower of the second largest.
    **{f"g-opt-16-{size}": Config(_vit(_GIANT, size, 16), _text(_SO400M)) for size in (256, 384)},
    "b-16-naflex": Config(_naflex(_BASE), _text(_BASE)),
    "so400m-16-naflex": Config(_naflex(_SO400M), _text(_SO400M)),
    # For pictures of about 64 pixels, trained on a laptop.
    "small": Config(_SMALL[0], siglip.SIZES["small"].text),
    "small-naflex": Config(_SMALL[1], siglip.SIZES["small"].text),
}
