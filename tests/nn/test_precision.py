from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from chiasm.adaptation.quantised import quantise
from chiasm.nn import precision
from chiasm.nn.precision import at_least_float32, autocast, bf16_gain, cast_weights, choose_precision, matrix_rate

CPU = torch.device("cpu")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[torch.dtype, float]]:
    """Rates that stand for a device's; those asked for are kept under "asked"."""
    rates = {torch.float32: 100.0, torch.bfloat16: 400.0}
    monkeypatch.setattr(precision, "matrix_rate", lambda _device, dtype, _side, _tries: rates.pop(dtype))
    bf16_gain.cache_clear()
    yield rates
    bf16_gain.cache_clear()


@pytest.mark.parametrize(("low", "chosen"), [(400.0, "bf16"), (150.0, "bf16"), (149.0, "float32"), (0.5, "float32")])
def test_auto_takes_what_was_measured_once(low: float, chosen: str, measured: dict[torch.dtype, float]) -> None:
    measured[torch.bfloat16] = low
    assert choose_precision("auto", CPU) == chosen
    assert not measured, "each rate was taken"
    assert choose_precision("auto", CPU) == chosen, "else taking it again would fail"


def test_what_is_asked_for_is_not_measured(measured: dict[torch.dtype, float]) -> None:
    assert [choose_precision(one, CPU) for one in ("float32", "bf16", "fp16")] == ["float32", "bf16", "fp16"]
    assert len(measured) == 2


def test_the_measurement_is_of_products_of_that_size_and_type(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.Size, torch.dtype]] = []
    product = torch.mm

    def counted(left: torch.Tensor, right: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        seen.append((left.shape, out.dtype))
        return product(left, right, out=out)

    monkeypatch.setattr(torch, "mm", counted)
    clock = iter([0.0, 9.0, 10.0, 10.5, 20.0, 22.0])  # the second of three took least
    monkeypatch.setattr("chiasm.nn.precision.time.perf_counter", lambda: next(clock))
    assert matrix_rate(CPU, torch.bfloat16, 8, 2) == 2 * 8**3 / 0.5
    assert seen == [(torch.Size((8, 8)), torch.bfloat16)] * 3


def test_weights_are_cast_and_what_sums_or_scales_is_not() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(7, 64), nn.Linear(64, 7)
            self.head.weight = self.embed.weight  # tied
            self.norm, self.batch = nn.LayerNorm(64), nn.BatchNorm2d(3)
            self.temperature = nn.Parameter(torch.tensor(2.5))
            self.few = nn.Sequential(nn.Linear(64, 64))
            self.register_buffer("places", torch.randn(4, 64))
            self.register_buffer("ids", torch.arange(4))

    model = Small()
    quantise(model.few, "int8")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cast_weights(model, "bf16")
    after = model.state_dict()
    cast = {name for name, tensor in after.items() if tensor.dtype == torch.bfloat16}
    assert cast == {"embed.weight", "head.weight", "head.bias", "norm.weight", "norm.bias", "places"}
    assert model.head.weight is model.embed.weight
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name].to(tensor.dtype)), name
        assert name in cast or tensor.dtype == before[name].dtype, name


def test_autocast_is_off_in_float32() -> None:
    left = torch.ones(2, 2)
    with autocast(CPU, "float32"):
        assert (left @ left).dtype == torch.float32
    with autocast(CPU, "bf16"):
        assert (left @ left).dtype == torch.bfloat16


def test_at_least_float32_leaves_what_is_more() -> None:
    for given, wanted in ((torch.bfloat16, torch.float32), (torch.half, torch.float32), (torch.double, torch.double)):
        assert at_least_float32(torch.ones(1, dtype=given)).dtype == wanted
