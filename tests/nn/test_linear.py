"""The kernel for few rows against float64, and where it is not taken."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chiasm.nn import linear as own
from chiasm.nn.linear import Linear, linear


@pytest.mark.parametrize("shape", [(1, 48), (8, 48), (2, 3, 48), (0, 48), (600, 48)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_float64(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = Linear(48, 80, bias=bias), torch.randn(shape)
    exact = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    with torch.inference_mode():
        found = layer(x)
    assert found.shape == exact.shape
    assert torch.allclose(found.double(), exact, atol=1e-5)
    assert torch.allclose(layer(x).double(), exact, atol=1e-5)


def test_what_is_learned_or_of_another_precision_goes_the_ordinary_way() -> None:
    layer, x = Linear(16, 8), torch.randn(4, 16, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert x.grad is not None
    assert torch.allclose(x.grad, layer.weight.detach().sum(0).expand(4, -1))
    with torch.inference_mode():
        wide = layer.double()
        assert torch.equal(wide(x.double()), F.linear(x.double(), wide.weight, wide.bias))
        assert linear(torch.randn(4, 16, device="meta"), torch.empty(8, 16, device="meta")).shape == (4, 8)


def test_the_kernel_is_asked_for_few_rows_and_for_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []

    def product(x: Tensor, weight: Tensor, bias: Tensor | None, *_more: object) -> Tensor:
        asked.append(tuple(x.shape))
        return F.linear(x, weight, bias)

    monkeypatch.setattr(own, "_product", product)
    layer = Linear(16, 8)
    with torch.inference_mode():
        for shape in ((1, 16), (2, 3, 16), (512, 16), (513, 16), (0, 16)):
            layer(torch.randn(shape))
        layer.double()(torch.randn(1, 16).double())
        layer.float()
    layer(torch.randn(1, 16))  # with gradients
    assert asked == [(1, 16), (2, 3, 16), (512, 16)]


@pytest.mark.parametrize("there", [None, "mkldnn::_linear_pointwise(Tensor X, Tensor W) -> Tensor Y"])
def test_where_torch_has_no_such_kernel_products_go_the_ordinary_way(
    there: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None, or another one of that name."""
    kernels = SimpleNamespace()
    if there is not None:
        kernels._linear_pointwise = SimpleNamespace(default=SimpleNamespace(_schema=there))
    assert own.kernel(kernels) is None
    assert own.kernel(torch.ops.mkldnn) is own._product
    monkeypatch.setattr(own, "_product", own.kernel(kernels))
    layer, x = Linear(16, 8), torch.randn(3, 16)
    with torch.inference_mode():
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
