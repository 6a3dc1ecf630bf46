"""Matrix products of few rows, which is what a decoder that answers does most of its time.

torch computes float32 products on a CPU by a library made for large ones; for the few rows of a generation step (a
token a sequence) oneDNN's kernel, which torch ships too and its compiler uses, reads the weights about as fast as the
memory gives them. It takes them as they are stored, so nothing is copied or kept twice."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ROWS = 512  # beyond, both do alike
_KNOWN = (
    "mkldnn::_linear_pointwise(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, str? algorithm) -> Tensor Y"
)


def kernel(kernels: Any) -> Any:
    """The one among torch's kernels, which promises it to nobody; None where there is none, or one that takes other
    things."""
    found = getattr(kernels, "_linear_pointwise", None)
    return found if found is not None and str(found.default._schema) == _KNOWN else None


_product = kernel(torch.ops.mkldnn)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, as `F.linear`; by oneDNN where nothing is learned, on a CPU, in float32, for few rows."""
    if _product is not None and _few(x, weight):
        found: Tensor = _product(x, weight, bias, "none", [], "")
        return found
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """`nn.Linear`, quick for few rows too; see `linear`."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # nn.Linear's own name
        return linear(input, self.weight, self.bias)


def _few(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and 0 < x.numel() <= _ROWS * x.shape[-1]
        and type(x) is Tensor  # not one that is traced or sharded
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch's own
    )
