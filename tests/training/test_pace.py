"""What a run tells of its own speed."""

from __future__ import annotations

import json
from mmap import mmap
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from chiasm.data.reader import Reader
from chiasm.training import peak
from chiasm.training.loop import Loop
from chiasm.training.monitor import in_words
from chiasm.training.pace import Pace, memory
from chiasm.training.peak import Work, matrix_peak
from chiasm.training.settings import Training
from tests.worlds import Patches, tiny_clip, tiny_processor

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(peak, "_SIDES", {"cpu": 64})


def test_operations_are_those_of_the_formulas() -> None:
    work = Work(CPU, torch.float32)
    left_NK, right_KM = torch.randn(3, 5, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    with work.counted():
        torch.autograd.backward((left_NK @ right_KM).sum())
    assert work.operations == 3 * 2 * 3 * 5 * 7  # the product, and one for the gradient of each side


def test_a_model_counts_as_in_torchs_own_counter() -> None:
    """Which sees attention only where it is written as matrix products: so it is, for the comparison."""
    model = tiny_clip()
    batch = next(iter(Reader(Patches(64), tiny_processor(), 16, seed=1)))
    work = Work(CPU, torch.float32)
    with work.counted():
        torch.autograd.backward(model.losses(batch)["contrastive"])
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as theirs:
        torch.autograd.backward(model.losses(batch)["contrastive"])
    # The fast kernel computes the attention's own product again in its backward pass: a fifth more of attention.
    assert theirs.get_total_flops() <= work.operations < 1.02 * theirs.get_total_flops()


def test_the_peak_is_measured_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    first = matrix_peak(CPU, torch.float32)
    monkeypatch.setattr(peak, "measured_peak", lambda *_: 1.0)
    assert matrix_peak(CPU, torch.float32) == first
    assert matrix_peak(CPU, torch.bfloat16) == 1.0  # another type is another figure


def test_a_share_is_told_where_it_is_known_and_can_be_true(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "measured_peak", lambda *_: 1000.0)
    work = Work(CPU, torch.float32)
    assert work.share(1.0) is None
    with work.counted():
        torch.ones(2, 5) @ torch.ones(5, 10)
    assert work.share(1.0) == 2 * 2 * 5 * 10 / 1000
    assert work.share(0.1) is None  # twice the peak: it was measured too low, and is forgotten
    assert work.share(1.0) is None
    monkeypatch.setattr(peak, "measured_peak", lambda *_: 4000.0)
    assert matrix_peak(CPU, torch.float32) == 4000.0


def test_figures_are_means_over_the_steps_since_the_last_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("chiasm.training.pace.time.monotonic", lambda: next(clock))
    pace = Pace(CPU, torch.float32, counts=False)
    pace.stepped(8, 100.0)  # the first step of a sitting says nothing of the others
    assert "seconds_left" not in pace.figures(9)
    pace.restart()
    pace.stepped(8, 1.0)
    pace.stepped(8, 3.0)
    found = pace.figures(10)
    assert found["samples_per_second"] == 4.0
    assert found["seconds_left"] == 10 / 2 * 10  # ten seconds went by in two steps


def test_memory_grows_with_what_is_held() -> None:
    size = 64_000_000
    before = memory(CPU)
    with mmap(-1, size) as held:  # fresh from the system: an allocator might hand out what it has kept
        held[:] = b"1" * size
        after = memory(CPU)
    assert after["memory_bytes"] - before["memory_bytes"] > 0.8 * size
    assert after["peak_memory_bytes"] >= after["memory_bytes"]


def _lines(folder: Path, **changes: bool) -> list[dict[str, float]]:
    settings = Training(steps=6, log_every=1, device="cpu", **changes)  # type: ignore[arg-type]  # only bools here
    loop = Loop(tiny_clip(), Reader(Patches(64), tiny_processor(), 16), settings, folder, console=Console(quiet=True))
    loop.run()
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_tells_them_in_every_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "measured_peak", lambda *_: 1e15)
    lines = _lines(tmp_path / "run")
    assert all({"samples_per_second", "memory_bytes", "peak_memory_bytes"} <= set(line) for line in lines)
    assert ["matrix_share" in line for line in lines] == [False, False, True, True, True, True]
    assert ["seconds_left" in line for line in lines] == [False, False, True, True, True, True]
    assert lines[-1]["seconds_left"] == 0
    monkeypatch.setattr(torch, "compile", lambda function: function)  # the real one takes a minute
    assert not any("matrix_share" in line for line in _lines(tmp_path / "compiled", compile=True))


def test_what_is_shown_leaves_out_what_is_not_known() -> None:
    known = {"samples_per_second": 1234.5, "matrix_share": 0.61, "memory_bytes": 1.26e9, "seconds_left": 125.0}
    shown = ["loss 2.346", "0:02:05 left", "1,234 samples/s", "1.3 GB", "61% of the matrix peak"]
    assert in_words(2.3456, known) == shown
    assert in_words(2.3456, {"samples_per_second": 9.0}) == ["loss 2.346", "9 samples/s"]


def test_a_cache_that_cannot_be_used_costs_a_measurement_and_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "cache" / "peaks").mkdir(parents=True)
    monkeypatch.setattr(peak, "measured_peak", lambda *_: 5.0)
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "file"))  # no folder, so nothing can be written below
    assert matrix_peak(CPU, torch.float32) == 5.0
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    assert matrix_peak(CPU, torch.float32) == 5.0
    (kept,) = (tmp_path / "cache" / "peaks").iterdir()
    for damaged in ("", "{}", "[]", '{"operations_per_second": null}'):
        kept.write_text(damaged)
        assert matrix_peak(CPU, torch.float32) == 5.0
