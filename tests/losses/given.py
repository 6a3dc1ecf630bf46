"""Embeddings to try losses on, and a loss with all of its gradients."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def pairs(count: int, width: int = 16) -> tuple[Tensor, Tensor]:
    """Embeddings of unit length; those of a pair are closer than others."""
    generator = torch.Generator().manual_seed(count)
    image_ND = torch.randn(count, width, generator=generator)
    text_ND = image_ND + torch.randn(count, width, generator=generator)
    return F.normalize(image_ND, dim=-1), F.normalize(text_ND, dim=-1)


def gradients(loss: Callable[..., Tensor], *given: Tensor) -> list[Tensor]:
    """The loss, and its gradient with respect to each thing given."""
    leaves = [one.clone().requires_grad_() for one in given]
    value = loss(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves)]
