"""Checkpoints that are damaged, half there, or no longer wanted; and what a run does about them."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from chiasm.data.reader import Reader
from chiasm.errors import CheckpointError, RecipeError, TrainingError
from chiasm.models import folder as model_folder
from chiasm.training.loop import Loop
from chiasm.training.settings import Training
from tests.worlds import Patches, tiny_clip, tiny_processor

pytestmark = pytest.mark.xdist_group("checkpoint")


def _loop(folder: Path, said: io.StringIO | None = None, **changes: Any) -> Loop:
    settings = Training(**{"steps": 8, "device": "cpu", "checkpoint_every": 2, "keep": 3, **changes})
    reader = Reader(Patches(64), tiny_processor(), 8, seed=1)
    console = Console(file=said or io.StringIO(), width=300)
    return Loop(tiny_clip(), reader, settings, folder, recipe="name: test\n", console=console)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints at the steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("trained")
    _loop(folder).run()
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def _damage(file: Path, how: str) -> None:
    data = bytearray(file.read_bytes())
    if how == "a bit":
        data[len(data) // 2] ^= 1
        file.write_bytes(bytes(data))
    elif how == "cut":
        file.write_bytes(bytes(data[: len(data) // 2]))
    else:
        file.unlink()


@pytest.mark.parametrize("how", ["a bit", "cut", "gone"])
@pytest.mark.parametrize("name", ["model.safetensors", "training-00000-of-00001.safetensors", "training.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(how: str, name: str, run: Path) -> None:
    _damage(run / "checkpoints" / "step-000006" / name, how)
    loop = _loop(run, said := io.StringIO())
    assert loop.resume() == 4
    assert f"step-000006 is damaged ({name} is not what SHA256SUMS says); going on from" in said.getvalue()
    assert loop.checkpoints.steps() == [2, 4]
    assert (run / "checkpoints" / "step-000006.damaged").is_dir()
    assert loop.run()
    assert loop.checkpoints.steps() == [2, 4, 6]  # it is made anew


def test_the_sums_too_may_be_damaged(run: Path) -> None:
    sums = run / "checkpoints" / "step-000006" / "SHA256SUMS"
    sums.write_text("".join(sums.read_text().splitlines(keepends=True)[:2]))
    assert _loop(run).resume() == 4


def test_a_run_of_which_all_is_damaged_does_not_begin_anew_in_silence(run: Path) -> None:
    for step in (2, 4, 6):
        _damage(run / "checkpoints" / f"step-00000{step}" / "model.safetensors", "a bit")
    with pytest.raises(CheckpointError, match=r"step-000002 is damaged .* no other is left: begin the run anew"):
        _loop(run).resume()


def test_what_a_kill_in_a_save_leaves_is_finished_or_removed(run: Path) -> None:
    places = run / "checkpoints"
    (places / "step-000006").rename(places / "step-000006.new")  # whole, but for its last rename
    shutil.copytree(places / "step-000004", places / "step-000008.new")
    (places / "step-000008.new" / "SHA256SUMS").unlink()  # half-written
    (places / "step-000004").rename(places / "step-000004.old")  # between the renames that put one in another's place
    shutil.copytree(places / "step-000004.old", places / "step-000004.new")
    (places / "step-000002").rename(places / "step-000002.gone")  # half-removed
    assert _loop(run).resume() == 6
    assert sorted(path.name for path in places.iterdir()) == ["step-000004", "step-000006"]


@pytest.mark.parametrize("begun", [True, False])
def test_a_model_folder_is_never_lost_between_renames(begun: bool, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model_folder.save(tiny_clip(), folder)
    folder.rename(tmp_path / "model.old")
    if begun:
        shutil.copytree(tmp_path / "model.old", tmp_path / "model.new")
        (tmp_path / "model.new" / "mark").touch()
    model_folder.recover(folder)
    assert model_folder.load(folder)
    assert (folder / "mark").exists() == begun
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_newest_the_best_and_some_for_good_are_kept(tmp_path: Path) -> None:
    loop = _loop(
        tmp_path, steps=12, keep=1, keep_every=4, checkpoint_every=2, evaluate_every=1, best="a: score", keep_best=2
    )
    scores = iter([0.1, 0.2, 0.9, 0.3, 0.8, 0.4, 0.85, 0.1, 0.1, 0.1, 0.1, 0.1])
    loop.evaluate = lambda model: {"a: score": next(scores)}
    loop.run()
    assert loop.checkpoints.steps() == [3, 4, 7, 8, 10]


def test_a_figure_that_no_evaluation_has_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"set training\.evaluate_every"):
        Training(1, best="x")
    loop = _loop(tmp_path, evaluate_every=1, best="pairs: acuracy")
    loop.evaluate = lambda model: {"pairs: accuracy": 0.5}
    with pytest.raises(TrainingError, match="did you mean 'pairs: accuracy'"):
        loop.run()
