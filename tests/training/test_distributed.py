"""Several processes against one: the same losses, gradients and weights, and checkpoints that either reads."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load

from chiasm.experiment.recipe import load_recipe
from chiasm.experiment.run import Experiment
from chiasm.losses.contrastive import info_nce
from chiasm.losses.sigmoid import pairwise_sigmoid
from chiasm.training.distributed import Ranks
from tests.training import ranks as scenes
from tests.training.conftest import FROZEN, torchrun
from tests.worlds import Patches

pytestmark = [pytest.mark.xdist_group("ranks"), pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(together: Path) -> Path:
    return together / "ranks"


@pytest.fixture(scope="module")
def told(folder: Path) -> list[dict[str, Any]]:
    """What each of the two ranks said."""
    return [json.loads((folder / f"two-{rank}.json").read_text()) for rank in (0, 1)]


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name],
            tensor,
            atol=tolerance,
            rtol=0,
            msg=f"{name} differs by {float((found[name] - tensor).abs().max())}",
        )


@pytest.mark.parametrize("name", ["info_nce", "sigmoid"])
@pytest.mark.parametrize("file", ["two-0.json", "two-1.json", "three-1.json"])
def test_contrastive_losses_see_the_negatives_of_all_ranks(name: str, file: str, folder: Path) -> None:
    """Shares of 3 and 5 rows, and of 3, 0 and 5, against the closed form on all 8."""
    found = json.loads((folder / file).read_text())["gathering"][name]
    torch.manual_seed(0)
    image, text = (one.requires_grad_() for one in torch.nn.functional.normalize(torch.randn(2, 8, 5), dim=-1))
    scale = torch.tensor(3.0, requires_grad=True)
    loss = info_nce(image, text, scale) if name == "info_nce" else pairwise_sigmoid(image, text, scale, scale * 0 - 2)
    grads = torch.autograd.grad(loss, (image, text, scale))
    assert found["loss"] == pytest.approx(float(loss.detach()), abs=1e-6)
    for what, grad in zip(("image", "text", "scale"), grads, strict=True):
        torch.testing.assert_close(torch.tensor(found[what]), grad, atol=1e-6, rtol=0)


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_two_ranks_learn_what_one_learns(way: str, folder: Path) -> None:
    alone, together = _lines(folder / "alone.jsonl"), _lines(folder / f"{way}.jsonl")
    assert [line["step"] for line in together] == list(range(1, 21))
    for one, other in zip(alone, together, strict=True):
        for figure in ("loss", "gradient_norm", "learning_rate", "samples"):
            assert other[figure] == pytest.approx(one[figure], abs=1e-5, rel=1e-5), (one["step"], figure)
    expected = load_file(folder / "alone.safetensors")
    weights = load_file(folder / f"{way}.safetensors")
    _same(
        {name: tensor for name, tensor in weights.items() if not name.startswith("optimiser/")},
        {name: tensor for name, tensor in expected.items() if not name.startswith("optimiser/")},
    )
    finished = load_file(folder / f"{way}-finished.safetensors")  # a plain model with the averaged weights
    _same(
        {f"average/{name}": tensor for name, tensor in finished.items() if f"average/{name}" in expected},
        {name: tensor for name, tensor in expected.items() if name.startswith("average/") and name != "average/steps"},
    )


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_parts_of_a_batch_are_summed_before_they_are_shared(way: str, folder: Path, tmp_path: Path) -> None:
    alone = scenes.loop(tmp_path, Ranks(), ema=None)
    alone.run()
    _same(_weights(load_file(folder / f"parts-{way}.safetensors")), _weights(scenes.state_of(alone)))


def test_ranks_with_fewer_samples_count_less(folder: Path, told: list[dict[str, Any]], tmp_path: Path) -> None:
    """One rank finds none of its share of the first batch readable, later ones find fewer than the others."""
    alone = scenes.loop(tmp_path, Ranks(), Patches(60, scenes.broken()), steps=8)
    alone.run()
    _same(_weights(load_file(folder / "broken.safetensors")), _weights(scenes.state_of(alone)))
    assert [line["loss"] for line in _lines(folder / "broken/metrics.jsonl")] == pytest.approx(
        [line["loss"] for line in _lines(tmp_path / "metrics.jsonl")], abs=1e-5
    )
    assert told[0]["broken"] == told[1]["broken"] == alone.progress.samples_skipped
    assert _lines(folder / "broken/metrics.jsonl")[-1]["skipped_samples"] == alone.progress.samples_skipped


def _weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name.startswith("weights/")}


def test_what_goes_wrong_on_one_rank_stops_both_alike(folder: Path, told: list[dict[str, Any]]) -> None:
    for way in ("ddp", "fsdp"):
        assert "not finite at step 1" in told[0][f"bad-{way}"]
        assert told[1][f"bad-{way}"] == "the first rank tells why"
        for rank in (0, 1):
            stem = folder / f"bad-{way}" / f"nonfinite-step-000001-rank-{rank:05d}"
            keys = json.loads(stem.with_suffix(".json").read_text())["samples"]
            assert len(load_file(stem.with_suffix(".safetensors"))["images.pixels"]) == len(keys) == 6
    assert "No space left on device; older checkpoints are kept" in told[1]["full"][0]
    assert told[0]["full"][0] == "rank 1 cannot go on, and tells why"
    assert told[0]["full"][1] == ["step-000002"]
    for rank in (0, 1):
        assert told[rank]["queue"] == list(range(rank))
        assert told[rank]["stopped"] == [False, [3]]
        assert "muon needs whole matrices" in told[rank]["refused"][0]
        assert "training.parallel is none, but there are 2 processes" in told[rank]["refused"][1]
        assert "use bf16" in told[rank]["refused"][2]
    assert [told[rank]["patient"] for rank in (0, 1)] == [[True, 2], [True, 0]]  # only the first evaluates


@pytest.mark.parametrize("name", ["alone", "fsdp", "ddp"])
@pytest.mark.parametrize("way", ["fsdp", "ddp"])
def test_a_checkpoint_goes_on_under_any_number_of_ranks(
    name: str, way: str, folder: Path, told: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert told[0][f"{name} under {way}"] == told[1][f"{name} under {way}"] == 10
    one = scenes.loop(folder / name, Ranks(), parts=FROZEN, steps=30)
    assert one.resume() == 10
    _same(load_file(folder / f"{name}-under-{way}.safetensors"), scenes.state_of(one), tolerance=0)


def test_three_ranks_read_what_two_have_written_and_the_reverse(folder: Path) -> None:
    one = scenes.loop(folder / "fsdp", Ranks(), parts=FROZEN, steps=30)
    assert one.resume() == 10
    for way in ("fsdp", "ddp"):
        _same(load_file(folder / f"fsdp-under-three-{way}.safetensors"), scenes.state_of(one), tolerance=0)
    one = scenes.loop(folder / "three", Ranks(), parts=FROZEN, steps=3)
    assert one.resume() == 2
    one.run()
    _same(load_file(folder / "three-end.safetensors"), scenes.state_of(one))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_torch_itself_reads_the_slices(folder: Path) -> None:
    """torch.distributed.checkpoint puts the tensors together from the slices of two ranks as we do."""
    one = scenes.loop(folder / "fsdp", Ranks(), parts=FROZEN, steps=30)
    one.resume()
    expected = scenes.state_of(one)
    found = {name: torch.zeros_like(tensor) for name, tensor in expected.items() if not name.startswith("weights/")}
    load(found, storage_reader=HuggingFaceStorageReader(str(folder / "fsdp" / "checkpoints" / "step-000010")))
    _same(found, {name: expected[name] for name in found}, tolerance=0)
    assert any(name.endswith("exp_avg_sq") for name in found)


@pytest.mark.parametrize(("name", "rank"), [("two", 0), ("two", 1), ("three", 0), ("three", 1), ("three", 2)])
def test_no_thread_of_a_process_group_outlives_it(name: str, rank: int, together: Path) -> None:
    """Else the interpreter ends beneath it; DDP, FSDP, adapters and their checkpoints were all at work before."""
    before, after = json.loads((together / f"threads-{name}-{rank}.json").read_text())
    assert len(before) >= 9, "three groups, of three threads each"
    assert after == []


RECIPE = """
name: small
data:
  train: {source: scenes, seed: 1, count: 300, objects: [1, 1], annotations: false}
  batch_size: 8
processor: {tokenizer: {learn: 300}, text: {context: 40}, image: {size: 64}}
model:
  family: clip
  size: small
  width: 16
  vision: {width: 16, layers: 1, mlp_width: 16, stem: []}
  text: {width: 16, layers: 1, mlp_width: 16}
training: {steps: 2000, learning_rate: 1e-3, checkpoint_every: 5, timeout: 60, log_every: 1}
"""


def _workers(process: subprocess.Popen[str]) -> dict[int, int]:
    """The process of each rank that a torchrun started."""
    found = {}
    for task in Path("/proc").iterdir():
        try:
            parent = re.search(r"^PPid:\s+(\d+)", (task / "status").read_text(), re.MULTILINE)
            rank = re.search(rb"\0RANK=(\d+)", (task / "environ").read_bytes())
        except (OSError, ValueError):  # gone meanwhile, no process, or not ours
            continue
        if parent and rank and int(parent[1]) == process.pid:
            found[int(rank[1])] = int(task.name)
    return found


def test_a_rank_that_is_killed_ends_the_job_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    run = tmp_path / "run"
    words = ["-m", "chiasm", "train", str(tmp_path / "small.yaml"), "--out", str(run)]
    with torchrun(2, *words) as process:
        end = time.monotonic() + 120
        while not (run / "checkpoints" / "step-000010").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.05)
        os.kill(_workers(process)[1], signal.SIGKILL)
        told, error = process.communicate(timeout=60)
    assert process.returncode != 0
    sentences = [line for line in error.splitlines() if line.startswith("chiasm train: ")]
    assert len(sentences) == 1
    assert "rank 1 no longer answers rank 0" in sentences[0]
    newest = re.search(r"the newest checkpoint is (\S+); go on with --resume", sentences[0])
    assert newest is not None
    assert Path(newest[1]).is_dir()
    assert told.count("step 200/2000") <= 1  # the second rank prints nothing
    step = int(newest[1][-6:])
    again = Experiment(load_recipe(tmp_path / "small.yaml"), run, resume=True, console=Console(quiet=True))
    assert again.loop.progress.step == step
    batch, sizes = next(again.loop._batches())
    again.loop._step(batch, sizes)  # and one process goes on
    assert [line["step"] for line in _lines(run / "metrics.jsonl")] == list(range(1, step + 2))
