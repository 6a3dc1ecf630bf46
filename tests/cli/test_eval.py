"""`chiasm eval` with several processes, and of models behind an endpoint."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from chiasm.cli import _workers, main, shared_arguments
from chiasm.cli import eval as eval_command
from chiasm.evaluation.result import Evaluation
from chiasm.models import folder
from tests.evaluation.test_run import unseconded
from tests.models.generative_models import small_llava
from tests.weights.served import KEY, Answer, said, served
from tests.worlds import tiny_clip

TASKS = """
evaluation:
  - {task: pairs, limit: 4, data: {source: scenes, seed: 2, count: 6}}
  - {task: probes, form: words, limit: 4, data: {source: scenes, seed: 2, count: 6}}
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of an evaluation of a small speaker, but for its folder."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    model = small_llava(template="")
    folder.save(model, tmp_path / "model")
    (tmp_path / "tasks.yaml").write_text(TASKS)
    return ["eval", str(tmp_path / "model"), "--tasks", str(tmp_path / "tasks.yaml"), "--out"]


def _results(out: Path) -> Evaluation:
    return Evaluation.load(out / "evaluation")


@pytest.mark.slow
def test_two_processes_score_as_one(made: list[str], tmp_path: Path) -> None:
    one, two, torchrun = (tmp_path / name for name in ("one", "two", "torchrun"))
    assert main([*made, str(one), "--quiet"]) == 0
    assert main([*made, str(two), "--quiet", "--processes", "2"]) == 0
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "chiasm"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([*words, *made, str(torchrun)], check=True, capture_output=True, env=environment)
    expected = _results(one)
    for out in (two, torchrun):
        assert unseconded(_results(out)) == unseconded(expected)
        for name in ("pairs", "probes"):
            lines = [
                (out / "evaluation/cache" / share / f"{name}.jsonl").read_text().splitlines()[1:]
                for share in ("", "share-2")
            ]
            assert all(lines), "both processes have answered"
            assert len(lines[0]) + len(lines[1]) == len(set(_keys(one, name)))


def _keys(out: Path, name: str) -> list[str]:
    return (out / f"evaluation/cache/{name}.jsonl").read_text().splitlines()[1:]


def test_what_a_dead_process_left_is_asked_here(
    made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_workers, "_words", lambda options: ["--no-such-option"])
    assert main([*made, str(tmp_path / "out"), "--quiet", "--processes", "2", "--baselines", "constant"]) == 0
    assert "process 2 of 2 ended with status 2; what it has not answered is asked here" in capfd.readouterr().out
    assert _results(tmp_path / "out").results[0].headline.failed == 0


def test_shares_by_hand_wait_for_the_last_run(made: list[str], tmp_path: Path) -> None:
    words = [*made, str(tmp_path / "out"), "--quiet", "--baselines", "constant"]
    for share in ("1/2", "2/2"):
        assert main([*words, "--share", share]) == 0
        assert not (tmp_path / "out/evaluation/results.json").exists()
    assert main(words) == 0
    assert len(_results(tmp_path / "out").results) == 2


def test_score_by_reaches_the_model(made: list[str], tmp_path: Path) -> None:
    words = [*made, str(tmp_path / "out"), "--quiet", "--baselines", "constant", "--score-by", "yes"]
    assert main(words) == 0
    assert _results(tmp_path / "out").model["scored by"] == "yes"


def test_precision_reaches_the_model_and_its_results(made: list[str], tmp_path: Path) -> None:
    words = [*made, str(tmp_path / "out"), "--quiet", "--baselines", "constant"]
    assert main([*words]) == 0
    exact = _results(tmp_path / "out").model
    assert "precision" not in exact
    assert main([*words, "--precision", "bf16"]) == 0  # its answers are not mistaken for those of before
    rounded = _results(tmp_path / "out").model
    assert rounded["precision"] == "bfloat16"
    assert rounded["fingerprint"] != exact["fingerprint"]
    assert "--precision bf16" in " ".join(_workers._words(_options([*words, "--precision", "bf16"])))


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    eval_command.arguments(parser)
    shared_arguments(parser)
    return parser.parse_args(words[1:])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--processes", "0"], "--processes must be at least 1, not 0"),
        (["--processes", "2", "--share", "1/2"], "leave out --processes"),
        (["--share", "3/2"], "share 3/2 is none"),
        (["--score-by", "gains"], "LLaVA does not score by 'gains'; did you mean 'gain'?"),
        (["--batch-tokens", "0"], "--batch-tokens must be at least 1"),
    ],
)
def test_mistakes_are_told(
    made: list[str], tmp_path: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*made, str(tmp_path / "out"), *words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_tasks_that_are_impossible_are_left_out_where_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder.save(tiny_clip(), tmp_path / "model")
    (tmp_path / "tasks.yaml").write_text(TASKS)
    words = ["eval", str(tmp_path / "model"), "--tasks", str(tmp_path / "tasks.yaml"), "--quiet", "--out"]
    assert main([*words, str(tmp_path / "out")]) == 2
    assert "task 'probes' needs a model that can generate, but CLIP can only embed" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*words, str(tmp_path / "out"), "--processes", "2", "--leave-out-impossible"]) == 0
    told = " ".join(capfd.readouterr().out.split())
    assert "probes was left out for model: it needs a model that can generate, but CLIP can only embed" in told
    assert "ended with status" not in told
    assert (tmp_path / "out/evaluation/cache/share-2/images.keys").is_file(), "the other process leaves it out too"
    assert [one.name for one in _results(tmp_path / "out").results] == ["pairs"]


def test_an_endpoint_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tasks.yaml").write_text(TASKS)
    file, out = tmp_path / "pictor.yaml", tmp_path / "out"
    words = ["eval", str(file), "--tasks", str(tmp_path / "tasks.yaml"), "evaluation.0.task=probes"]
    words += ["evaluation.0.name=plain", "evaluation.0.form=words"]
    with served(lambda body, number: said("red")) as server:
        file.write_text(f"url: {server.url}\nmodel: pictor\nkey: PICTOR_KEY\nconcurrency: 4\n")
        monkeypatch.delenv("PICTOR_KEY", raising=False)
        assert main([*words, "--out", str(out)]) == 2
        assert "the environment variable PICTOR_KEY is not set" in capfd.readouterr().err
        monkeypatch.setenv("PICTOR_KEY", KEY)
        assert main([*words]) == 2
        assert "give --tasks RECIPE and --out FOLDER" in capfd.readouterr().err
        assert main([*words, "--out", str(out), "--processes", "2"]) == 2
        assert "set `concurrency` in its file" in capfd.readouterr().err
        assert main([*words, "--out", str(out)]) == 0
    assert _results(out).model["name"] == "pictor"
    written = [path for path in out.rglob("*") if path.is_file()]
    assert len(written) > 4
    assert not [path for path in written if KEY.encode() in path.read_bytes()], "the key is in no file"
    said_here = capfd.readouterr()
    assert KEY not in said_here.out + said_here.err
    with served(lambda body, number: Answer({"error": {"message": "bad"}}, 401)) as server:
        file.write_text(f"url: {server.url}\nmodel: pictor\nkey: PICTOR_KEY\n")
        assert main([*words, "--out", str(tmp_path / "other")]) == 2
    told = capfd.readouterr().err
    assert "refuses the key in the environment variable PICTOR_KEY (status 401: bad)" in " ".join(told.split())
    assert "Traceback" not in told
    file.write_text("url: https://host/v1\nmodle: pictor\n")
    assert main([*words, "--out", str(out)]) == 2
    assert "modle: there is no such key; did you mean 'model'?" in capfd.readouterr().err
    assert replace(_results(out), results=()).model["endpoint"].startswith("http://127.0.0.1")
