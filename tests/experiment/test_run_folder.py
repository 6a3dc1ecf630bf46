"""What belongs to a run's folder, and who may write there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from chiasm.errors import RecipeError, TrainingError
from chiasm.experiment.recipe import load_recipe
from chiasm.experiment.run_folder import RunFolder

CLAIM = (
    "import sys; from pathlib import Path; from chiasm.experiment.run_folder import RunFolder\n"
    "folder = RunFolder(Path(sys.argv[1])); folder.claim('b: 2', overwrite=False); print('taken', flush=True)\n"
    "sys.stdin.read()"
)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\\b", "a\0b", "a\nb", "x" * 201, "é" * 101])
def test_a_name_is_one_folder(name: str, tmp_path: Path) -> None:
    recipe = load_recipe("clip/scenes")
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.text().replace("name: clip-scenes", f"name: {json.dumps(name)}"))
    with pytest.raises(RecipeError, match=r"name: .* cannot name a folder"):
        load_recipe(file)


def test_overwriting_removes_what_runs_write_and_nothing_else(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.claim("a: 1", overwrite=False)
    run.release()
    (tmp_path / "checkpoints" / "step-1").mkdir(parents=True)
    (tmp_path / "thesis").mkdir()
    for name in ("metrics.jsonl", "report.html", "thesis/chapter.txt", "notes.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "checkpoint").symlink_to(tmp_path / "thesis")
    RunFolder(tmp_path).check("b: 2", resume=False, overwrite=True)
    RunFolder(tmp_path).claim("b: 2", overwrite=True)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"recipe.yaml", ".lock", "notes.txt", "thesis/chapter.txt"}
    assert (tmp_path / "recipe.yaml").read_text() == "b: 2"


def test_one_process_writes_into_a_folder_and_the_lock_ends_with_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CLAIM, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "taken\n"
        ours = RunFolder(tmp_path)
        with pytest.raises(TrainingError, match=f"another process trains in {tmp_path}; wait for it or stop it"):
            ours.claim("a: 1", overwrite=True)
        assert (tmp_path / "recipe.yaml").read_text() == "b: 2", "the recipe of the run that goes on stays"
        other.kill()
    ours.claim("a: 1", overwrite=True)
    again = RunFolder(tmp_path)
    with pytest.raises(TrainingError, match="another process"):
        again.claim("a: 1", overwrite=False)
    ours.release()
    again.claim("a: 1", overwrite=False)


def test_a_folder_that_only_was_locked_is_free(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    RunFolder(tmp_path).check("a: 1", resume=False, overwrite=True)
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(TrainingError, match="holds other things than a run"):
        RunFolder(tmp_path).check("a: 1", resume=False, overwrite=True)
