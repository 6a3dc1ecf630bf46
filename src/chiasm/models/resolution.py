"""Models for other resolutions and contexts than they were trained for: their learned positions are resized.

A model so changed computes at once, though a little worse than one that is then trained at its new size for a while
(the 336-pixel CLIP was: Radford et al. 2021, arXiv:2103.00020, section 3.2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.data.processor import PairProcessor
from chiasm.data.tokenizer import Tokenizer
from chiasm.data.transforms import ImageTransform
from chiasm.errors import CapabilityError
from chiasm.models.dual_encoder import DualEncoder
from chiasm.nn.grid_positions import resized
from chiasm.nn.image_towers.resnet import AttentionPool, ResNet
from chiasm.nn.image_towers.vit import ViT
from chiasm.nn.text_towers.transformer import TextTransformer

_RESNET_SHRINKS = 32  # pixels of a side for one place of a ResNet's last grid


def set_resolution(
    model: DualEncoder,
    size: int,
    *,
    interpolation: Literal["bicubic", "bilinear"] = "bicubic",
    antialias: bool = True,
) -> None:
    """Has a model see pictures of `size` by `size` pixels: its positions, its config and its processor change.

    A class token keeps its position. antialias: True resizes as open_clip and timm do when they load weights; False as
    transformers does with `interpolate_pos_encoding=True`.
    Raises CapabilityError for an image tower that has no learned positions on a grid, or a size below one patch.
    """
    config: Any = model.config
    tower, image = model.vision, model.processor.image
    holder: ViT | AttentionPool
    if isinstance(tower, ViT):
        holder, side, prefix = tower, size // tower.config.patch, tower.prefix
    elif isinstance(tower, ResNet):
        holder, side, prefix = tower.pool, size // _RESNET_SHRINKS, 1
    else:
        raise CapabilityError(
            f"the resolution of a {type(tower).__name__} cannot be changed: it learned no positions for one resolution"
        )
    if side < 1:
        raise CapabilityError(f"{size} pixels are less than one patch of this model; give a larger image_size")
    holder.position = _like(
        holder.position, resized_grid(holder.position.detach(), side, prefix, interpolation, antialias)
    )
    tower.config = replace(tower.config, image_size=size)
    tower.image_size = size
    model.config = replace(config, vision=tower.config)
    if isinstance(image, ImageTransform):
        model.processor = PairProcessor(replace(image, size=size), model.processor.tokenizer)


def set_context(model: DualEncoder, context: int) -> None:
    """Has a model read texts of up to `context` tokens: its positions, its config and its tokenizer's rules change.

    As open_clip's `resize_text_pos_embed`: linear, from end to end. Raises CapabilityError for a text tower that is no
    transformer of ours.
    """
    config: Any = model.config
    tower, tokenizer = model.text, model.processor.tokenizer
    if not isinstance(tower, TextTransformer):
        raise CapabilityError(f"the context of a {type(tower).__name__} cannot be changed")
    if context < 1:
        raise CapabilityError(f"a context of {context} tokens leaves nothing to read; give 1 or more")
    if context != tower.context:
        learned_1DT = tower.position.detach().float().T[None]
        made_1DT = F.interpolate(learned_1DT, context, mode="linear", align_corners=False)
        tower.position = _like(tower.position, made_1DT[0].T)
    tower.config = replace(tower.config, context=context)
    tower.context = context
    model.config = replace(config, text=tower.config)
    rules = replace(tokenizer.rules, context=context)
    model.processor = PairProcessor(model.processor.image, Tokenizer(tokenizer.backend, rules))


def resized_grid(
    position_PD: Tensor, side: int, prefix: int, interpolation: str = "bicubic", antialias: bool = True
) -> Tensor:
    """Positions of a square grid, resized to `side` by `side`; the first `prefix` belong to no place and are kept."""
    return torch.cat([position_PD[:prefix], resized(position_PD[prefix:], side, interpolation, antialias)])


def _like(old: nn.Parameter, values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.to(old.dtype).contiguous().clone(), requires_grad=old.requires_grad)
