"""Model FLOPs utilisation: the matrix operations of a step, counted, over the device's measured peak."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from chiasm.data.file_cache import cache_folder, write_whole
from chiasm.errors import DataError
from chiasm.nn.precision import matrix_rate

_TRIES = 6  # products; the fastest counts, for others may use the device too
_SIDES = {"cpu": 1024, "cuda": 4096}  # large enough for the peak, small enough for a blink


class Work:
    """The matrix operations of one step, and the share of the device's peak that they are done at.

    Operations are counted as they are carried out, with the lengths that the texts of that step have; what is computed
    twice (`training.recompute`) counts twice, causal attention as if it were whole. Nothing is reported before anything
    was counted.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.operations, self._peak = 0, 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """A context that counts the operations done within it."""
        with _Counter() as counter:
            yield
        self.operations = counter.operations
        self._peak = matrix_peak(self.device, self.dtype) if self.operations else 0.0

    def share(self, seconds: float) -> float | None:
        """The share of the peak for a step of so many seconds; None where it is not known.

        More than all is no share: then the peak was measured while the device was busy. It is forgotten, so that the
        next run measures it anew.
        """
        if not self.operations or not self._peak or seconds <= 0:
            return None
        found = self.operations / seconds / self._peak
        if found <= 1:
            return found
        _cached(self.device, self.dtype).unlink(missing_ok=True)
        self._peak = 0.0
        return None


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product, measured once for a device, a type and a number of threads.

    A product of two n x n matrices is 2 n^3 operations. The figure is kept in chiasm's cache folder; where that cannot
    be read or written, it is measured each time.
    """
    with suppress(OSError, DataError, ValueError, KeyError, TypeError):  # absent, damaged, or no folder of ours
        return float(json.loads(_cached(device, dtype).read_text())["operations_per_second"])
    peak = measured_peak(device, dtype)
    record = {"device": _name(device), "dtype": str(dtype), "operations_per_second": peak}
    with suppress(OSError, DataError):  # a run does not end for a figure that could not be kept
        write_whole(_cached(device, dtype), (json.dumps(record) + "\n").encode())
    return peak


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of the fastest of a few large matrix products."""
    return matrix_rate(device, dtype, _SIDES.get(device.type, 1024), _TRIES)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Counts by the formulas of torch's FlopCounterMode, but leaves every operation as it is.

    FlopCounterMode takes some of them apart, which changes the last bits of what they compute.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.operations = 0

    def __torch_dispatch__(
        self, function: Any, types: object, given: Sequence[Any] = (), named: Mapping[str, Any] | None = None
    ) -> Any:
        out, kind = function(*given, **(named or {})), function._overloadpacket
        if kind in _OF_CPU:
            self.operations += _OF_CPU[kind](*(tensor.shape for tensor in given if isinstance(tensor, Tensor)))
        elif kind in flop_registry:
            self.operations += flop_registry[kind](*given, **(named or {}), out_val=out)
        return out


def _attention(query_BHTD: torch.Size, key_BHTD: torch.Size, value_BHTD: torch.Size) -> int:
    return int(sdpa_flop_count(query_BHTD, key_BHTD, value_BHTD))  # type: ignore[no-untyped-call]  # torch's


def _attention_backward(slope_BHTD: torch.Size, *of_BHTD: torch.Size) -> int:
    return int(sdpa_backward_flop_count(slope_BHTD, *of_BHTD[:3]))  # type: ignore[no-untyped-call]  # torch's


# Attention on a CPU, for which torch has no formula: those of its kin on a GPU.
_OF_CPU: dict[object, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def _cached(device: torch.device, dtype: torch.dtype) -> Path:
    marks = (_name(device), dtype, torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.__version__)
    digest = hashlib.blake2b(" ".join(map(str, marks)).encode(), digest_size=12).hexdigest()
    return cache_folder() / "peaks" / f"{digest}.json"


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.node()} {platform.machine()}"
