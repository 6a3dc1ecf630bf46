"""The kernel for few rows against float64, and where it is not taken."""

import pytest
import torch
import torch.nn.functional as F

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
