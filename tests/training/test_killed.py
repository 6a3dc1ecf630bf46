"""Runs that are killed at any moment and go on: the end is that of a run that was never touched, to the bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from chiasm.cli import main

ROOT = Path(__file__).parents[2]
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
  image_dropout: 0.2
  vision: {width: 16, layers: 1, heads: 2, mlp_width: 16, stem: []}
  text: {width: 16, layers: 1, heads: 2, mlp_width: 16}
training:
  {steps: 10, learning_rate: 1e-3, checkpoint_every: 1, evaluate_every: 3, log_every: 1, ema: 0.9, precision: bf16}
evaluation: [{task: pairs, data: {source: scenes, seed: 2, count: 4}}]
"""


@pytest.mark.slow
def test_a_run_killed_many_times_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Killed at its n-th change of a file or after a moment, in saves and renames above all, until it ends."""
    (tmp_path / "small.yaml").write_text(RECIPE)
    words = ["train", str(tmp_path / "small.yaml")]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(ROOT / "tests/training/killed.py"), "4", "20", str(tmp_path / "cut"), *words]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert told.returncode == 0, told.stderr
    assert int(told.stdout) >= 8
    last = "checkpoints/step-000009"
    for name in ("checkpoint/model.safetensors", f"{last}/training-00000-of-00001.safetensors"):
        whole, cut = load_file(tmp_path / "whole" / name), load_file(tmp_path / "cut" / name)
        assert whole.keys() == cut.keys()
        assert all(torch.equal(cut[key], tensor) for key, tensor in whole.items()), name
    lines = [
        [
            (line["step"], line.get("loss"), line.get("evaluation"))
            for line in map(json.loads, (tmp_path / run / "metrics.jsonl").read_text().splitlines())
        ]
        for run in ("whole", "cut")
    ]
    assert lines[0] == lines[1]
    assert sorted(path.name for path in (tmp_path / "cut/checkpoints").iterdir()) == ["step-000008", "step-000009"]
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "cut" / last, check=True)
