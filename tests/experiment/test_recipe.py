from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from chiasm.config import dump
from chiasm.errors import ChiasmError, RecipeError
from chiasm.experiment.entries import shipped_recipes
from chiasm.experiment.recipe import EvaluationEntries, load_recipe, load_tasks

BASE = """
name: base
data:
  train: {source: scenes, count: 64, seed: 1}
  batch_size: 8
model: {family: clip, size: small}
training: {steps: 2, learning_rate: 1e-3}
processor: {tokenizer: {learn: 300}}
"""


def _write(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_a_recipe_is_read_and_written_back(tmp_path: Path) -> None:
    recipe = load_recipe(_write(tmp_path, BASE))
    assert recipe.training.learning_rate == 1e-3
    assert load_recipe(_write(tmp_path, recipe.text(), "again.yaml")) == recipe


def test_overrides_reach_any_entry(tmp_path: Path) -> None:
    file = _write(tmp_path, BASE + "evaluation:\n  - {task: pairs, data: {source: scenes, count: 9}}\n")
    recipe = load_recipe(file, ["training.steps=7", "model.vision.layers=1", "evaluation.0.data.count=5", "name=x y"])
    assert recipe.training.steps == 7
    assert dump(recipe.model)["vision"]["layers"] == 1
    assert len(recipe.evaluation[0].data) == 5
    assert recipe.name == "x y"


def test_a_recipe_extends_another_one_level_deep(tmp_path: Path) -> None:
    _write(tmp_path, BASE, "base.yaml")
    top = _write(tmp_path, "extends: base.yaml\nname: top\ntraining: {steps: 9}\n", "top.yaml")
    recipe = load_recipe(top)
    assert (recipe.name, recipe.training.steps, recipe.training.learning_rate) == ("top", 9, 1e-3)
    deeper = _write(tmp_path, "extends: top.yaml\n", "deeper.yaml")
    with pytest.raises(RecipeError, match="only one level"):
        load_recipe(deeper)
    with pytest.raises(RecipeError, match=r"nothing\.yaml, which does not exist"):
        load_recipe(_write(tmp_path, "extends: nothing.yaml\n", "lost.yaml"))


def test_entries_refer_to_each_other_and_may_be_left_to_the_user(tmp_path: Path) -> None:
    text = BASE.replace("data:\n", "data:\n  root: ???\n").replace(
        "{source: scenes, count: 64, seed: 1}", '{source: folder, path: "${data.root}/train"}'
    )
    file = _write(tmp_path, text)
    with pytest.raises(RecipeError, match=r"leaves data\.root to you: add data\.root=VALUE"):
        load_recipe(file)
    with pytest.raises(ChiasmError, match=f"{tmp_path}/pictures/train"):
        load_recipe(file, [f"data.root={tmp_path}/pictures"])
    with pytest.raises(RecipeError, match=r"data\.rot.*no such entry"):
        load_recipe(_write(tmp_path, BASE.replace("name: base", 'name: "${data.rot}"')))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("trainig: {}", "trainig: there is no such key; did you mean 'training'?"),
        ("training.stpes=3", "training.stpes: there is no such key; did you mean 'steps'?"),
        ("data.train.source=scens", "data.train: there is no source 'scens'; did you mean 'scenes'?"),
        ("training.steps=0", "training.steps must be at least 1"),
        ("data.batch_size=-1", "data.batch_size must be at least 1, not -1"),
        ("training.warmup=5", "training.warmup is a share of the steps"),
        ("training", "is not of the form a.b=value"),
        ("training.steps.more=1", "training.steps holds no entries"),
        ("name=[", "is not YAML"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, change: str, told: str) -> None:
    if ":" in change:
        file, overrides = _write(tmp_path, BASE + change), []
    else:
        file, overrides = _write(tmp_path, BASE), [change]
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, overrides)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["data.batch_size=0", "data.batch_tokens=0"], "data.batch_tokens must be at least 1, not 0"),
        (
            ["data.batch_size=0", "data.batch_tokens=9", "data.batch_image_tokens=0"],
            "data.batch_image_tokens must be at least 1, not 0",
        ),
        (["data.threads=0"], "data.threads must be at least 1, not 0"),
        (["data.batch_image_tokens=9"], "data.batch_image_tokens goes with data.batch_tokens"),
        (["data.batch_size=0"], "give either batch_size, in samples, or batch_tokens"),
        (
            ["data.cache={crops: 4, side: 40}"],
            "data.cache: give either side or crops; crops are stored at the transform's own size",
        ),
    ],
)
def test_sizes_that_cannot_be_are_told_by_their_own_name(tmp_path: Path, changes: list[str], told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(_write(tmp_path, BASE), changes)
    assert str(caught.value).endswith(told)


def test_broken_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"there is no recipe 'clip/scnes'; did you mean 'clip/scenes'"):
        load_recipe("clip/scnes")
    with pytest.raises(RecipeError, match="is not YAML that can be read"):
        load_recipe(_write(tmp_path, "a: [1\n"))
    with pytest.raises(RecipeError, match="the key 'seed' stands twice"):
        load_recipe(_write(tmp_path, BASE + "seed: 1\nseed: 2\n"))
    with pytest.raises(RecipeError, match="holds no recipe"):
        load_recipe(_write(tmp_path, "- a\n"))


def test_every_shipped_recipe_says_in_its_first_line_what_it_does() -> None:
    assert len(shipped_recipes()) >= 3
    for name, file in shipped_recipes().items():
        first = file.read_text().splitlines()[0]
        assert first.startswith("# "), name
        assert isinstance(yaml.safe_load(file.read_text()), dict)


def test_a_file_of_tasks_needs_nothing_else(tmp_path: Path) -> None:
    whole = load_recipe("clip/scenes")
    assert load_tasks("clip/scenes") == EvaluationEntries(whole.evaluation)
    (tmp_path / "tasks.yaml").write_text(
        "score_by: gain\ndata: {root: elsewhere}\nevaluation:\n"
        '  - {task: probes, data: {source: easy_vqa, path: "${data.root}"}}\n'
    )
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/questions.json").write_text("[]")
    asked = load_tasks(tmp_path / "tasks.yaml", [f"data.root={tmp_path}/elsewhere", "evaluation.0.limit=3"])
    assert (asked.score_by, [(one.title, one.limit) for one in asked.evaluation]) == ("gain", [("probes", 3)])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("evalution: []", r"tasks\.yaml: a recipe has no entry 'evalution'; did you mean 'evaluation'"),
        ("name: one", r"tasks\.yaml has no evaluation entries"),
        ("evaluation: [{task: prob}]", r"tasks\.yaml: evaluation.*did you mean 'probes'"),
        (
            "data:\n  root: ???\nevaluation: [{task: pairs}]",
            r"tasks\.yaml leaves data\.root to you: add data\.root=VALUE",
        ),
        (
            'evaluation: [{task: pairs, name: "${data.at}"}]',
            r"tasks\.yaml: \$\{data\.at\}: the recipe has no such entry",
        ),
    ],
)
def test_what_is_wrong_in_a_file_of_tasks_is_told(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "tasks.yaml").write_text(text)
    with pytest.raises(RecipeError, match=told):
        load_tasks(tmp_path / "tasks.yaml")
