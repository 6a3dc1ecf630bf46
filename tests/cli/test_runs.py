"""What becomes of a run's folder, whatever is asked of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import PIL.Image
import pytest
import torch
from safetensors.torch import load_file

from chiasm.cli import main

PAIRS = "{task: pairs, data: {source: scenes, seed: 2, count: 4}}"
TASK = f"evaluation=[{PAIRS}]"
RECIPE = """
name: small
data:
  train: {source: scenes, seed: 1, count: 300, objects: [1, 1], annotations: false}
  batch_size: 8
processor: {tokenizer: {learn: 300}, text: {context: 40}, image: {size: 64}}
model: {family: clip, size: small}
training: {steps: 3, learning_rate: 1e-3}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "small.yaml").write_text(RECIPE)
    return str(tmp_path / "small.yaml")


def _refused(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert told in error.replace("\n", " ")
    assert "Traceback" not in error


def test_overwrite_removes_a_run_and_nothing_else(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("x")
    train = ["train", recipe, "--overwrite", "--out"]
    _refused([*train, str(precious)], "holds other things than a run; they are not removed", capsys)
    assert (precious / "thesis.txt").exists()
    run = tmp_path / "run"
    assert main([*train, str(run)]) == 0
    _refused([*train, str(run), "processor.text.context=50"], "processor.text.context is 50", capsys)
    assert (run / "checkpoint").exists(), "a recipe that is refused must not cost the older run"
    assert main([*train, str(run)]) == 0


def test_how_a_run_is_carried_out_may_change_what_it_learns_may_not(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", recipe, "training.checkpoint_every=2", "--out", str(tmp_path / "run")]
    assert main(train) == 0
    shutil.rmtree(tmp_path / "run" / "checkpoint")
    _refused([*train, "--resume", "training.learning_rate=2e-3"], "another recipe (learning_rate: 0.002)", capsys)
    assert main([*train, "--resume", "training.parallel=fsdp", "training.keep=5", "training.timeout=9"]) == 0
    assert "going on from step 2 of 3" in capsys.readouterr().out


def test_a_start_that_fails_leaves_the_folder_free(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    _refused(["train", recipe, "model.vision.heads=7", "--out", run], "cannot be split into 7 heads", capsys)
    _refused(
        ["train", recipe, "training.parts={visoin: {frozen: true}}", "--out", run], "did you mean 'vision'", capsys
    )
    assert main(["train", recipe, "--out", run]) == 0


def test_a_finished_run_is_evaluated_again_not_trained(recipe: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["train", recipe, TASK, "--out", str(run)]
    assert main(words) == 0
    before = (run / "checkpoint" / "model.safetensors").read_bytes()
    lines = (run / "metrics.jsonl").read_text()
    assert main([*words, "--resume"]) == 0
    assert (run / "checkpoint" / "model.safetensors").read_bytes() == before
    assert (run / "metrics.jsonl").read_text() == lines


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            f"evaluation=[{PAIRS}, {PAIRS}]",
            "two",
        ),
        ("evaluation=[{task: classification, data: {source: scenes, count: 3}}]", "finds nothing to ask about"),
        ("evaluation=[{task: pairs, limit: 0, data: {source: scenes, count: 3}}]", "must be at least 1, not 0"),
        ("training.device=tpu9", "there is no device 'tpu9' here"),
        ("training.betas=[2, 2]", "training.betas must lie between 0 and 1"),
        ("training.learning_rate=-1", "training.learning_rate must not be negative"),
        ("training.accumulate=20", "training.accumulate splits a batch into 20 parts"),
        ("model.temperature=0", "model.temperature must be above 0"),
        ("data.train.count=5", "a batch of 8 samples is larger than the source of 5"),
        ("seed=-1", "seed must not be negative"),
        ("name=a/b", "cannot name a folder"),
    ],
)
def test_mistakes_are_told_before_the_training(
    change: str, told: str, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _refused(["train", recipe, change, "--out", str(tmp_path / "run")], told, capsys)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_other_mistakes_about_folders(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _refused(["train", recipe, "--out", str(tmp_path / "never"), "--resume"], "holds no run to go on with", capsys)
    run, file = tmp_path / "run", tmp_path / "a-file"
    file.write_text("x")
    _refused(["train", recipe, "--out", str(file)], "a-file", capsys)
    assert main(["train", recipe, TASK, "--out", str(run)]) == 0
    _refused(["eval", str(run), "--out", str(file)], "a-file", capsys)
    _refused(["eval", str(run), "evaluation.0.limit=2"], "would overwrite it; say with --out", capsys)
    _refused(["eval", str(run), "--device", "tpu9"], "there is no device 'tpu9' here", capsys)
    (run / "checkpoint" / "processor" / "processor.json").write_text("{")
    _refused(["eval", str(run)], "processor.json is damaged", capsys)


def test_a_source_of_which_nothing_can_be_read_stops(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    rows = [{"image": f"absent{at}.png", "caption": "nothing"} for at in range(8)]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = f"data.train={{source: captions, path: {tmp_path}/captions.jsonl}}"
    words = ["train", recipe, source, "data.max_skipped=1", "--out", str(tmp_path / "run")]
    _refused(words, "none of the last 8 samples could be read", capsys)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_goes_on_to_the_same_bits(number: int, recipe: str, tmp_path: Path) -> None:
    words = ["train", recipe, "training.steps=40", "training.checkpoint_every=5", "training.log_every=1"]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    cut = tmp_path / "cut"
    command = [sys.executable, "-m", "chiasm", *words, "--out", str(cut)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (cut / "checkpoints" / "step-000010").exists():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, number)
    process.wait(60)
    assert not (cut / "checkpoint").exists()
    assert main([*words, "--out", str(cut), "--resume"]) == 0
    whole = load_file(tmp_path / "whole" / "checkpoint" / "model.safetensors")
    resumed = load_file(cut / "checkpoint" / "model.safetensors")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    steps = [json.loads(line)["step"] for line in (cut / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 41))
