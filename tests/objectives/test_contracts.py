"""What every objective promises, found by walking the folder; it stands in `chiasm.contracts`.

Here alone: two processes learn what one does."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from chiasm.contracts.contract import Contract, Trial, contracts_of
from chiasm.objectives.objective import ObjectiveConfig
from tests.objectives.worlds import loop, state_of
from tests.training.conftest import ROOT, torchrun

NAMES = ("distillation", "siglip2")


def _same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 0.0) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        difference = float((found[name].double() - tensor.double()).abs().max()) if tensor.numel() else 0.0
        assert difference <= tolerance, f"{name} differs by {difference}"


def test_the_ranks_are_given_every_objective() -> None:
    """`own` is what all other tests of ranks train."""
    assert sorted(ObjectiveConfig.built_in()) == sorted([*NAMES, "own"])


@pytest.mark.parametrize("contract", list(contracts_of(ObjectiveConfig)), ids=lambda contract: contract.__name__)
@pytest.mark.parametrize("name", ObjectiveConfig.built_in())
def test_an_objective_keeps_the_contract(name: str, contract: Contract, tmp_path: Path) -> None:
    contract(Trial(ObjectiveConfig.choose(name), tmp_path))


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
