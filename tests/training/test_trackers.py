"""Trackers are told what metrics.jsonl is told; also in a run that was cut and went on."""

from __future__ import annotations

import importlib
import importlib.util
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from rich.console import Console

from chiasm.config import dump, parse
from chiasm.data.reader import Reader
from chiasm.errors import MissingExtra, RecipeError
from chiasm.training.distributed import Ranks
from chiasm.training.loop import Loop
from chiasm.training.monitor import Monitor
from chiasm.training.settings import Training
from chiasm.training.tracker import RunInfo, Tracker, TrackerConfig, scalars
from chiasm.training.trackers import tensorboard, trackio, wandb
from tests.worlds import Patches, tiny_clip, tiny_processor


def _loop(folder: Path, *trackers: TrackerConfig, **changes: Any) -> Loop:
    settings = Training(**{"steps": 8, "log_every": 1, "device": "cpu", "trackers": trackers, **changes})
    reader = Reader(Patches(64), tiny_processor(), 16, seed=1)
    loop = Loop(tiny_clip(), reader, settings, folder, name="mine", recipe="name: mine\n", console=Console(quiet=True))
    loop.evaluate = lambda model: {"retrieval: R@1": 0.25 + loop.progress.step / 100}
    return loop


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """metrics.jsonl as TensorBoard should have it: float32."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in _lines(folder):
        for name, value in scalars(line).items():
            found.setdefault(name, []).append((line["step"], float(np.float32(value))))
    return found


def _events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    read.Reload()
    return {name: [(one.step, one.value) for one in read.Scalars(name)] for name in read.Tags()["scalars"]}


def test_event_files_read_back_are_metrics_jsonl(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    _loop(tmp_path, tensorboard.Config(), evaluate_every=4).run()
    curves = _events(tmp_path)
    assert curves == _curves(tmp_path)
    assert [step for step, _ in curves["losses/contrastive"]] == list(range(1, 9))
    assert curves["evaluation/retrieval: R@1"] == [(4, float(np.float32(0.29))), (8, float(np.float32(0.33)))]


def test_after_a_resume_curves_go_on_without_double_lines(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    cut = _loop(tmp_path, tensorboard.Config(), checkpoint_every=3)
    cut.model.train()
    with cut.monitor:
        for batch in islice(iter(cut.reader), 5):  # killed two steps after a checkpoint
            cut._step(batch)
    again = _loop(tmp_path, tensorboard.Config(), checkpoint_every=3)
    assert again.resume() == 3
    again.run()
    assert [line["step"] for line in _lines(tmp_path)] == list(range(1, 9))
    assert _events(tmp_path) == _curves(tmp_path)


@dataclass(frozen=True)
class _Told(TrackerConfig):
    package: ClassVar[str] = "json"
    starts: list[RunInfo]

    def start(self, run: RunInfo) -> Tracker:
        self.starts.append(run)
        return _Nothing()


class _Nothing(Tracker):
    def log(self, step: int, figures: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_tracker_knows_what_an_earlier_sitting_told(tmp_path: Path) -> None:
    starts: list[RunInfo] = []
    cut = _loop(tmp_path, _Told(starts), checkpoint_every=3)
    cut.model.train()
    with cut.monitor:
        for batch in islice(iter(cut.reader), 5):
            cut._step(batch)
    again = _loop(tmp_path, _Told(starts))
    again.resume()
    again.run()
    found = [(one.step, one.logged, one.name, one.recipe) for one in starts]
    assert found == [(0, 0, "mine", "name: mine\n"), (3, 5, "mine", "name: mine\n")]


def test_other_ranks_are_silent(tmp_path: Path) -> None:
    starts: list[RunInfo] = []
    silent = not Ranks(rank=1, count=2).first
    with Monitor(tmp_path, 3, "mine", Console(quiet=True), trackers=[_Told(starts)], silent=silent) as monitor:
        monitor.write({"step": 1, "loss": 1.0})
    assert starts == []


def test_numbers_alone_are_told_nested_ones_by_their_path() -> None:
    line = {"step": 3, "loss": 1.5, "losses": {"a": 1, "_b": 2.0}, "without_gradient": ["x"], "skipped_step": "{}"}
    assert scalars(line) == {"loss": 1.5, "losses/a": 1, "losses/_b": 2.0}


def test_a_recipe_chooses_them_by_name() -> None:
    entries = {"steps": 3, "trackers": ["tensorboard", {"tracker": "wandb", "project": "mine"}, "trackio"]}
    training = parse(Training, entries, "training")
    assert training.trackers == (tensorboard.Config(), wandb.Config(project="mine"), trackio.Config())
    assert parse(Training, dump(training)) == training
    with pytest.raises(RecipeError, match=r"no tracker 'tensorbord'; did you mean 'tensorboard'"):
        parse(Training, {"steps": 3, "trackers": ["tensorbord"]}, "training")


@pytest.mark.parametrize("config", [tensorboard.Config(), wandb.Config(), trackio.Config()])
def test_a_package_that_is_not_there_is_told_first(config: TrackerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=rf"trackers: {config.chosen()} needs .* 'chiasm\[{config.extra}\]'"):
        config.check()


@pytest.mark.filterwarnings("ignore")  # the package's own
def test_wandb_works_without_a_network_and_is_told_every_step_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    marks = []
    for start, steps in (
        (RunInfo(tmp_path, "mine", "a: 1\n"), (1, 2)),
        (RunInfo(tmp_path, "mine", "a: 1\n", 1, 2), (2, 3)),
    ):
        tracker = wandb.Config().start(start)
        marks.append(package.run.id)
        for step in steps:
            tracker.log(step, {"loss": 1 / step})
        tracker.close()
    assert marks == [(tmp_path / "wandb.id").read_text().strip()] * 2
    assert sorted(_sent_to_wandb(tmp_path)) == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]


def _sent_to_wandb(folder: Path) -> list[tuple[int, float]]:
    """Step and loss of what its files hold for `wandb sync`."""
    records = importlib.import_module("wandb.proto.wandb_internal_pb2")
    found = []
    for file in folder.glob("wandb/offline-*/*.wandb"):
        for data in _leveldb(file.read_bytes()):
            record = records.Record()
            record.ParseFromString(data)
            items = {one.key or one.nested_key[0]: json.loads(one.value_json) for one in record.history.item}
            if "loss" in items:
                found.append((items["_step"], items["loss"]))
    return found


def _leveldb(log: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format: blocks of 32 KiB; pieces of a sum, a length, whether one ends it."""
    at, record = 7, b""  # behind the file's mark
    while at + 7 <= len(log):
        if 32_768 - at % 32_768 < 7:
            at += 32_768 - at % 32_768
            continue
        _, length, kind = struct.unpack("<IHB", log[at : at + 7])
        record += log[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or last
            yield record
            record = b""


@pytest.mark.filterwarnings("ignore")  # the package's own
def test_trackio_keeps_every_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    for start, steps in ((RunInfo(tmp_path, "mine", ""), (1, 2)), (RunInfo(tmp_path, "mine", "", 1, 2), (2, 3))):
        tracker = trackio.Config(project="test").start(start)
        for step in steps:
            tracker.log(step, {"loss": 1 / step})
        tracker.close()
    kept = importlib.import_module("trackio.sqlite_storage").SQLiteStorage.get_logs("test", "mine")
    assert [(one["step"], one["loss"]) for one in kept] == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]
