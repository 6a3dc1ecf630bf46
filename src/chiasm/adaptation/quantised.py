"""Frozen linear layers in 4 or 8 bits: NormalFloat blocks by bitsandbytes, or 8-bit numbers with a scale a row.

QLoRA: Dettmers et al. 2023, arXiv:2305.14314. Differs from it: the scales of blocks are not quantised once more."""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn

from chiasm.adaptation.adapter import Quantised, linear_layers
from chiasm.errors import MissingExtra

_BLOCK = 64  # weights that share a scale


class SmallLinear(nn.Linear, ABC):
    """A frozen linear layer with a quantised weight: y = x dequantize(W)^T, plus the bias where there is one.

    What it is given stays as it is, so it computes alike in training and evaluation, and merging changes nothing.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        for name, tensor in self.kept(layer.weight.detach().float()).items():
            setattr(self, name, nn.Parameter(tensor, requires_grad=False))
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=False)

    @property
    def W_q(self) -> Tensor:
        """What is kept of the weight; by this name peft knows that `dequantize` gives all of it, for DoRA."""
        return self.weight

    @abstractmethod
    def kept(self, weight: Tensor) -> dict[str, Tensor]:
        """The tensors that a weight is quantised to."""

    @abstractmethod
    def dequantize(self) -> Tensor:
        """The weight in float32, (out, in)."""

    def forward(self, x: Tensor) -> Tensor:
        y = cast("Tensor", _Product.apply(x, self))  # type: ignore[no-untyped-call]  # torch types it not
        return y + self.bias.to(y.dtype) if self.bias is not None else y


class Int8Linear(SmallLinear):
    """int8 linear layer: integers from -127 to 127, times one scale per row."""

    scale: nn.Parameter

    def kept(self, weight: Tensor) -> dict[str, Tensor]:
        scale = (weight.abs().amax(1, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        return {"weight": (weight / scale).round().to(torch.int8), "scale": scale}

    def dequantize(self) -> Tensor:
        return self.weight * self.scale


class Nf4Linear(SmallLinear):
    """NF4 linear layer: 16 levels at quantiles of a normal distribution, times one scale per 64 weights."""

    scale: nn.Parameter
    levels: nn.Parameter

    def kept(self, weight: Tensor) -> dict[str, Tensor]:
        numbers, state = bitsandbytes().functional.quantize_4bit(weight, blocksize=_BLOCK, quant_type="nf4")
        return {"weight": numbers, "scale": state.absmax, "levels": state.code}

    def dequantize(self) -> Tensor:
        library = bitsandbytes().functional
        state = library.QuantState(
            absmax=self.scale.data,
            shape=torch.Size((self.out_features, self.in_features)),
            code=self.levels.data,
            blocksize=_BLOCK,
            quant_type="nf4",
            dtype=torch.float32,
        )
        return library.dequantize_4bit(self.weight.data, state)


class _Product(torch.autograd.Function):
    """x W^T, of which the full weight is not kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: SmallLinear) -> Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return x @ layer.dequantize().to(x.dtype).T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return (grad @ ctx.layer.dequantize().to(grad.dtype)).to(ctx.dtype), None


def quantise(part: nn.Module, kind: Quantised) -> None:
    """Replaces the linear layers of a part by quantised ones, in place; they are frozen.

    Weights are quantised on the device that they are on. Raises MissingExtra where bitsandbytes is needed and absent.
    """
    for name in linear_layers(part):
        layer = part.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        parent, _, leaf = name.rpartition(".")
        small = (Nf4Linear if kind == "nf4" else Int8Linear)(layer)
        setattr(part.get_submodule(parent), leaf, small.train(layer.training))


def bitsandbytes() -> ModuleType:
    """The package. Raises MissingExtra where it is not installed."""
    quieten_bitsandbytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kernels for other devices
            import bitsandbytes as package
    except ImportError as error:
        raise MissingExtra("bitsandbytes", "quantised", "adapters on weights in 4 bits") from error
    return package


def quieten_bitsandbytes() -> None:
    """bitsandbytes, which peft imports where it is there, logs that it got no faster kernels from a hub: no news."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
