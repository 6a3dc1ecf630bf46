"""What the loop promises holds for every objective, and for what it owns: resume, parts of a batch, ranks."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from chiasm.models import folder as model_folder
from chiasm.objectives.objective import ObjectiveConfig
from tests.objectives.worlds import loop, state_of
from tests.training.conftest import ROOT, torchrun

NAMES = ("distillation", "siglip2")


def _same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 0.0) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        difference = float((found[name].double() - tensor.double()).abs().max()) if tensor.numel() else 0.0
        assert difference <= tolerance, f"{name} differs by {difference}"


def test_the_contracts_see_every_objective() -> None:
    """`own` is what all other tests of the loop train."""
    assert sorted(ObjectiveConfig.names()) == sorted([*NAMES, "own"])


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    """Stopped at 5 of 8, in the middle of what siglip2 adds from its third step on."""
    whole = loop(tmp_path / "whole", name)
    whole.run()
    cut = loop(tmp_path / "cut", name, checkpoint_every=5)
    cut.learner.train()
    for batch in islice(iter(cut.reader), 7):
        cut._step(batch)
    again = loop(tmp_path / "cut", name, seed=9)
    torch.manual_seed(77)
    assert again.resume() == 5
    again.run()
    _same(state_of(again), state_of(whole))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("accumulate", [2, 5])
def test_parts_of_a_batch_learn_what_the_whole_does(name: str, accumulate: int, tmp_path: Path) -> None:
    whole, parts = loop(tmp_path / "whole", name), loop(tmp_path / "parts", name, accumulate=accumulate)
    whole.run()
    parts.run()
    _same(state_of(parts), state_of(whole), 2e-5)
    told = [
        [json.loads(line) for line in (tmp_path / of / "metrics.jsonl").read_text().splitlines()]
        for of in ("whole", "parts")
    ]
    for one, other in zip(*told, strict=True):
        assert one["losses"].keys() == other["losses"].keys()
        for loss, value in one["losses"].items():
            assert other["losses"][loss] == pytest.approx(value, abs=1e-5), loss


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("ranks")
    process = torchrun(2, str(ROOT / "tests/objectives/ranks.py"), str(place))
    _, error = process.communicate(timeout=900)
    assert process.returncode == 0, error
    return place


@pytest.mark.parametrize("way", ["ddp-1", "ddp-2", "fsdp-1", "fsdp-2"])
@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_learn_what_one_learns(name: str, way: str, folder: Path, tmp_path: Path) -> None:
    alone = loop(tmp_path / "alone", name)
    alone.run()
    _same(load_file(folder / f"{name}-{way}.safetensors"), state_of(alone), 2e-5)
    cut = loop(tmp_path / "cut", name, steps=8, checkpoint_every=6)
    cut.learner.train()
    for batch in islice(iter(cut.reader), 6):
        cut._step(batch)
    _same(load_file(folder / f"{name}-{way}-resumed.safetensors"), state_of(cut), 2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_what_an_objective_owns_is_no_part_of_the_model(name: str, tmp_path: Path) -> None:
    run = loop(tmp_path, name, steps=2, checkpoint_every=1)
    run.run()
    saved = load_file(run.checkpoints.path(1) / model_folder.WEIGHTS)
    assert saved.keys() == run.model.state_dict().keys()
