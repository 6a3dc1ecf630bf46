"""Batches with pictures on one of two processes only: nobody waits for ever, and what is learned is one process's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from chiasm.training.distributed import Ranks
from tests.training import mixed_ranks

pytest.importorskip("peft", reason="pip install peft")


pytestmark = [pytest.mark.xdist_group("ranks"), pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(together: Path) -> Path:
    """What two processes have left, and one."""
    place = together / "mixed"
    for name, changes in mixed_ranks.RUNS.items():
        alone = mixed_ranks.loop(place / name, Ranks(), **changes)
        alone.run()
        mixed_ranks.write(alone, place / f"{name}.safetensors")
    return place


@pytest.mark.parametrize(("name", "way"), mixed_ranks.MODES)
def test_two_processes_learn_what_one_learns(folder: Path, name: str, way: str) -> None:
    expected, found = load_file(folder / f"{name}.safetensors"), load_file(folder / f"{name}-{way}.safetensors")
    assert found.keys() == expected.keys()
    assert any("vision" in one for one in found)
    for one, tensor in expected.items():
        torch.testing.assert_close(found[one], tensor, atol=1e-7, rtol=0)
    losses = [
        [json.loads(line)["loss"] for line in (folder / run / "metrics.jsonl").read_text().splitlines()]
        for run in (name, f"{name}-{way}")
    ]
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)  # told as float32
    assert len(losses[0]) == mixed_ranks.STEPS


def test_adapters_that_were_learned_in_slices_are_resumed(folder: Path) -> None:
    end, again = load_file(folder / "adapted-fsdp.safetensors"), load_file(folder / "resumed.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in end.items())
    checkpoint = folder / "adapted-fsdp/checkpoints/step-000003"
    assert (checkpoint / "adapters/language/adapter_model.safetensors").exists()
