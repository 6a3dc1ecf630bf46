"""Batches with pictures on one of two processes only: nobody waits for ever, and what is learned is one process's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from chiasm.training.distributed import Ranks
from tests.training import mixed_ranks
from tests.training.test_distributed import ROOT, torchrun

pytest.importorskip("peft", reason="pip install peft")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process and two have left."""
    place = tmp_path_factory.mktemp("mixed")
    process = torchrun(2, str(ROOT / "tests/training/mixed_ranks.py"), str(place))
    for name, changes in mixed_ranks.RUNS.items():  # while the two are starting
        alone = mixed_ranks.loop(place / name, Ranks(), **changes)
        alone.run()
        mixed_ranks.write(alone, place / f"{name}.safetensors")
    _, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    return place


@pytest.mark.parametrize(("name", "way"), mixed_ranks.MODES)
def test_two_processes_learn_what_one_learns(folder: Path, name: str, way: str) -> None:
    expected, found = load_file(folder / f"{name}.safetensors"), load_file(folder / f"{name}-{way}.safetensors")
    assert found.keys() == expected.keys()
    assert any("vision" in one for one in found)
    for one, tensor in expected.items():
        torch.testing.assert_close(found[one], tensor, atol=2e-5, rtol=0)
    losses = [
        [json.loads(line)["loss"] for line in (folder / run / "metrics.jsonl").read_text().splitlines()]
        for run in (name, f"{name}-{way}")
    ]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert len(losses[0]) == mixed_ranks.STEPS


def test_adapters_that_were_learned_in_slices_are_resumed(folder: Path) -> None:
    end, again = load_file(folder / "adapted-fsdp.safetensors"), load_file(folder / "resumed.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in end.items())
    checkpoint = folder / "adapted-fsdp/checkpoints/step-000003"
    assert (checkpoint / "adapters/language/adapter_model.safetensors").exists()
