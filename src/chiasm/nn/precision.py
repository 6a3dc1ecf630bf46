"""The number type that a model computes in: asked for by name, or chosen by measuring the device once.

Many CPUs multiply bf16 matrices several times as fast as float32 ones (those with AMX 4 to 9 times), others slower than
float32; nothing but a measurement tells. Which of the two it is decides `auto`."""

from __future__ import annotations

import time
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["float32", "bf16", "fp16"]
PrecisionChoice = Literal["auto", "float32", "bf16", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WORTH = 1.5  # times as fast as in float32 that products in bf16 have to be for `auto` to take it

_SIDES = {"cpu": 256, "cuda": 4096}  # of the matrices: large enough to tell, a blink even where bf16 is emulated
_TRIES = 4  # of each; the fastest counts, for others may use the device too


def choose_precision(choice: PrecisionChoice, device: torch.device) -> Precision:
    """What is asked for; for "auto" bf16 where products are `WORTH` times as fast as in float32, else float32."""
    if choice != "auto":
        return choice
    return "bf16" if bf16_gain(device) >= WORTH else "float32"


@cache
def bf16_gain(device: torch.device) -> float:
    """How many times as fast as float32 matrices this device multiplies bf16 ones; measured once a process."""
    low, full = (
        matrix_rate(device, dtype, _SIDES.get(device.type, 1024), _TRIES) for dtype in (torch.bfloat16, torch.float32)
    )
    return low / full


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int, tries: int) -> float:
    """Operations a second, the most of `tries`, of a product of two matrices of side x side, which has 2 side^3."""
    left, right, out = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(3))
    seconds = []
    for _ in range(tries + 1):  # the first warms up
        _wait(device)
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """A context in which products run in that precision and sums that need it (losses, norms, softmax) in float32."""
    low = DTYPES[precision] if precision != "float32" else torch.bfloat16  # torch wants a type, used or not
    return torch.autocast(device.type, dtype=low, enabled=precision != "float32")


@torch.no_grad()
def cast_weights(model: nn.Module, precision: Precision) -> None:
    """Has a model hold its weights in that precision, and so compute in it: half the memory, half of what is read.

    For models that are asked, not trained: training keeps float32 weights and uses `autocast`. What sums or scales
    stays as it is: batch statistics with their norms, quantised weights with their scales, and single numbers
    (temperatures, gates).
    """
    for module in model.modules():
        own = [*module._parameters.items(), *module._buffers.items()]
        if isinstance(module, nn.modules.batchnorm._BatchNorm) or any(_quantised(tensor) for _, tensor in own):
            continue
        for name, tensor in own:
            if tensor is None or tensor.ndim == 0 or not tensor.is_floating_point():
                continue
            lower = tensor.to(DTYPES[precision])
            if isinstance(tensor, nn.Parameter):
                tensor.data = lower  # the same parameter: others may share it, as tied embeddings do
            else:
                module._buffers[name] = lower


def _quantised(tensor: Tensor | None) -> bool:
    return isinstance(tensor, nn.Parameter) and not tensor.is_floating_point()


def at_least_float32(x: Tensor) -> Tensor:
    """x itself in float32 or float64; what is lower in float32, for sums that rounding would spoil."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
