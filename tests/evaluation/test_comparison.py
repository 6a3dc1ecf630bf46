"""Two runs item by item: scipy's figures, and refusals where the questions differ."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.additions import allowing
from chiasm.cli import main
from chiasm.config import parse
from chiasm.data.source import Source
from chiasm.data.sources.scenes import Scenes
from chiasm.errors import CheckpointError, DataError, RecipeError
from chiasm.evaluation.comparison import answers_file, compare_evaluations, images_of
from chiasm.evaluation.report.compared import write_comparison
from chiasm.evaluation.request import ScoreRequest
from chiasm.evaluation.result import Evaluation
from chiasm.evaluation.run import evaluate
from chiasm.evaluation.statistics import compare, holm
from chiasm.evaluation.task import Task
from chiasm.evaluation.tasks.classification import Classification
from chiasm.evaluation.tasks.existence import Existence
from chiasm.evaluation.tasks.pairs import Pairs
from chiasm.evaluation.tasks.probes import Probes
from tests.evaluation.fakes import HashEmbedder, world


def two_runs(folder: Path, tasks: list[Task] | None = None) -> tuple[Path, Path]:
    data = Scenes(count=20, size=32)
    asked = tasks if tasks is not None else [Probes(data), Pairs(data), Existence(data, head=True)]
    paths = folder / "a" / "evaluation", folder / "b" / "evaluation"
    for at, path in enumerate(paths):
        evaluate(HashEmbedder(seed=at), asked, path, about={"name": f"model {at}"}, progress=False)
    return paths


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("results.json", b"{", "results.json is not JSON"),
        ("results.json", b"\xff\xfe", "results.json is not UTF-8"),
        ("answers/pairs.jsonl", b"\xff\xfe\n", "pairs.jsonl, line 1, is no line of answers"),
        (
            "answers/pairs.jsonl",
            b'{"key": "a", "credit": [1], "answer": "", "kind": "", "sample": ""}\n',
            "line 1, is no",
        ),
        (
            "answers/pairs.jsonl",
            b'{"key": "a", "credit": {"b": "c"}, "answer": "", "kind": "", "sample": ""}',
            "line 1, is",
        ),
    ],
)
def test_damaged_files_are_an_error_that_names_them(file: str, content: bytes, told: str, tmp_path: Path) -> None:
    first, second = two_runs(tmp_path, [Pairs(Scenes(count=4, size=32))])
    (second / file).write_bytes(content)
    with pytest.raises((CheckpointError, DataError), match=told):
        compare_evaluations(first, second)


@pytest.mark.parametrize("content", [b"- {task: [", b"\xff\xfe\x00"])
def test_tasks_that_cannot_be_read_cost_the_pictures_alone(content: bytes, tmp_path: Path) -> None:
    first, second = two_runs(tmp_path, [Pairs(Scenes(count=4, size=32))])
    (first / "tasks.yaml").write_bytes(content)
    _, missing = write_comparison(compare_evaluations(first, second), (first, second), tmp_path / "compare.html")
    assert len(missing) == 1
    assert "tasks.yaml is not YAML" in missing[0]


def test_differences_and_changes_are_those_of_the_items(tmp_path: Path) -> None:
    first, second = two_runs(tmp_path)
    found = compare_evaluations(first, second)
    assert [one.task for one in found.tasks] == ["probes", "pairs", "existence"]
    results = [Evaluation.load(path).results for path in (first, second)]
    for task, ours, theirs in zip(found.tasks, *results, strict=True):
        for one in task.differences:
            figures = [next(s.value for s in r.scores if s.name == one.name and not s.group) for r in (ours, theirs)]
            assert [one.first, one.second] == pytest.approx(figures)
            assert one.value == pytest.approx(figures[0] - figures[1])
            assert one.low <= one.value <= one.high
        assert sum(change.gain > 0 for change in task.changes) == task.headline.wins
        assert sum(change.gain < 0 for change in task.changes) == task.headline.losses
        rows = [
            {row["key"]: row for row in map(json.loads, answers_file(path, task.task).read_text().splitlines())}
            for path in (first, second)
        ]
        for change in task.changes:
            assert change.answers == (rows[0][change.key]["answer"], rows[1][change.key]["answer"])
    tests = {one.name: one.test for one in found.tasks[2].differences}
    assert tests == {"accuracy": "McNemar", "F1": "bootstrap", "precision": "bootstrap", "recall": "bootstrap"}
    assert [one.adjusted for one in found.tasks] == holm([one.headline.p for one in found.tasks])


def test_the_mean_of_kinds_is_compared_as_such(tmp_path: Path) -> None:
    first, second = two_runs(tmp_path, [Classification(world(23))])
    (task,) = compare_evaluations(first, second).tasks
    means = [Evaluation.load(path).results[0].scores for path in (first, second)]
    expected = [next(one.value for one in scores if one.name == "mean per class") for scores in means]
    found = next(one for one in task.differences if one.name == "mean per class")
    assert [found.first, found.second] == pytest.approx(expected)


def test_other_questions_are_refused_in_a_sentence(tmp_path: Path) -> None:
    first, second = two_runs(tmp_path)
    evaluate(
        HashEmbedder(),
        [Probes(Scenes(count=20, size=32, seed=1)), Pairs(Scenes(count=20, size=32))],
        second,
        progress=False,
    )
    found = compare_evaluations(first, second)
    assert [one.task for one in found.tasks] == ["pairs"]
    assert found.refused[0].startswith("task 'probes' did not ask both models the same (hashes ")
    with pytest.raises(DataError, match="'probes' did not ask both models the same"):
        compare_evaluations(first, second, ["probes"])
    with pytest.raises(DataError, match="'existence' was not asked of both models"):
        compare_evaluations(first, second, ["existence"])
    answers_file(second, "pairs").unlink()
    with pytest.raises(CheckpointError, match=r"pairs\.jsonl with the answers"):
        compare_evaluations(first, second)


def test_another_processor_is_told(tmp_path: Path) -> None:
    first, second = two_runs(tmp_path)
    evaluation = Evaluation.load(second)
    changed = tuple(replace(one, protocol="other") for one in evaluation.results)
    Evaluation(evaluation.model, changed).save(second)
    assert all("processors differ" in one.notes[0] for one in compare_evaluations(first, second).tasks)


def test_pictures_are_found_by_the_tasks_that_were_written_down(tmp_path: Path) -> None:
    first, _ = two_runs(tmp_path)
    asked = [one for one in Probes(Scenes(count=20, size=32)).requests if isinstance(one, ScoreRequest)]
    found = images_of(first, "probes")
    assert {one.key: one.images[0].key for one in asked}.items() <= {k: v.key for k, v in found.items()}.items()
    assert images_of(first, "other") == {}


def test_pictures_of_an_added_source_are_found_once_its_package_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Comparing opens a folder that somebody made, so it imports nothing on its own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"added_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(
        "from dataclasses import dataclass\nfrom chiasm.data.sources.scenes import Scenes\nfrom chiasm.data.source "
        "import Source\n\n@dataclass(frozen=True)\nclass Mine(Source):\n    count: int\n    def __len__(self):\n"
        "        return self.count\n    def __getitem__(self, index):\n"
        "        return Scenes(count=self.count, size=32)[index]\n"
    )
    with allowing(name):
        data = parse(Source, {"source": f"{name}:Mine", "count": 20})  # type: ignore[type-abstract]  # one is chosen
    first, second = two_runs(tmp_path, [Probes(data), Pairs(Scenes(count=20, size=32))])
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises(RecipeError, match=f"names '{name}'.* --allow {name}"):
        images_of(first, "probes")
    assert images_of(first, "pairs"), "the other tasks have theirs"
    comparison = compare_evaluations(first, second)
    _, missing = write_comparison(comparison, (first, second), tmp_path / "compare.html")
    assert [line.partition(":")[0] for line in missing] == ["probes"]
    with allowing(name):
        assert {one.key for one in Probes(Scenes(count=20, size=32)).requests} <= images_of(first, "probes").keys()


def test_why_there_are_no_pictures_of_data_in_memory_is_told(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Inside(Scenes):
        """Of a class that nothing outside of this function can name."""

    first, _ = two_runs(tmp_path, [Probes(world(23)), Pairs(Inside(count=20, size=32))])
    with pytest.raises(DataError, match=r"cannot be asked again .* because Listed holds what a recipe cannot say"):
        images_of(first, "probes")
    with pytest.raises(DataError, match=r"because the source 'tests.*:Inside': 'Inside' is not there in the module"):
        images_of(first, "pairs")


def test_the_bootstrap_is_scipys_paired_one() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    earned = generator.random((2, 60)).round(2)
    keys = [str(at) for at in range(60)]
    ours, theirs_too = (dict(zip(keys, row.tolist(), strict=True)) for row in earned)
    found = compare("m", ours, theirs_too, {key: key for key in keys})
    theirs = stats.bootstrap(
        tuple(earned),
        lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=20000,
        rng=generator,
    ).confidence_interval
    assert [found.low, found.high] == pytest.approx([theirs.low, theirs.high], abs=0.01)
    assert found.test == "bootstrap"
    normal = 2 * stats.norm.sf(abs(found.value) / (np.diff(earned, axis=0).std(ddof=1) / np.sqrt(60)))
    assert found.p == pytest.approx(normal, abs=0.05)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_by_its_definition(p: list[float]) -> None:
    """The adjusted p is the least level at which the step-down procedure rejects."""
    for level in (0.01, 0.05, 0.3, 0.9):
        rejected, left = set(), sorted(range(len(p)), key=p.__getitem__)
        while left and p[left[0]] * len(left) <= level:
            rejected.add(left.pop(0))
        assert {at for at, adjusted in enumerate(holm(p)) if adjusted <= level} == rejected


def test_the_command_tells_writes_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_runs(tmp_path)
    first, second = str(tmp_path / "a"), str(tmp_path / "b")
    assert main(["compare", first, second, "--json", str(tmp_path / "d.json")]) == 0
    told = capsys.readouterr().out
    assert "A: model 0   B: model 1" in told
    assert "did better (model 0: " in told
    page = (tmp_path / "b" / "compare.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == page.count('alt="the picture') > 20
    saved = json.loads((tmp_path / "d.json").read_text())
    assert saved["names"] == ["model 0", "model 1"]
    assert len(saved["tasks"][0]["changes"]) == sum(
        saved["tasks"][0]["differences"][0][way] for way in ("wins", "losses")
    )
    (tmp_path / "a" / "evaluation" / "tasks.yaml").write_text(
        "- {task: probes, data: {source: captions, path: gone.jsonl}}\n"
    )
    assert main(["compare", first, second]) == 0
    assert "without pictures: probes: there is no caption file at gone.jsonl" in capsys.readouterr().out
    assert main(["compare", first, str(tmp_path / "nowhere")]) == 2
    assert "run `chiasm eval` first" in capsys.readouterr().err
