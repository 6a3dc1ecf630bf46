"""From real sources to a saved evaluation."""

import json
from pathlib import Path

import numpy as np
import pytest

from chiasm.data.image import Image
from chiasm.data.sources.folder import Folder
from chiasm.data.sources.scenes import Scenes
from chiasm.data.sources.sugarcrepe import SugarCrepe
from chiasm.evaluation.request import ScoreRequest
from chiasm.evaluation.result import Evaluation
from chiasm.evaluation.run import evaluate, quick_scores
from chiasm.evaluation.table import table
from chiasm.evaluation.task import Task
from chiasm.evaluation.tasks.classification import Classification
from chiasm.evaluation.tasks.pairs import Pairs
from chiasm.evaluation.tasks.probes import Probes
from chiasm.evaluation.tasks.retrieval import Retrieval
from tests.evaluation.fakes import HashEmbedder
from tests.shared_data import shared_data
from tests.worlds import tiny_clip


def test_scenes_through_all_tasks(tmp_path: Path) -> None:
    data = Scenes(count=40, size=32)
    tasks: list[Task] = [Retrieval(data), Pairs(data), Probes(data)]
    found = evaluate(tiny_clip(), tasks, tmp_path, progress=False)
    assert Evaluation.load(tmp_path) == found
    headings = len(found.results)
    assert table([found, found]).row_count == headings + sum(len(one.scores) for one in found.results)
    probes = found.results[2]
    asked = [one for one in tasks[2].requests if isinstance(one, ScoreRequest)]
    assert probes.headline.chance == pytest.approx(np.mean([1 / len(one.texts) for one in asked]))
    for result in found.results:
        for score in result.scores:
            assert score.baselines["constant"] == pytest.approx(score.chance, abs=1e-12)
            assert score.low <= score.value <= score.high
    quick = quick_scores(tiny_clip(), tasks)
    assert quick["retrieval: image to text R@1"] == pytest.approx(found.results[0].headline.value)


def test_sugarcrepe_is_the_official_accuracy(tmp_path: Path) -> None:
    """The official script, evaluate.py: the share of pairs of each file with score(true) > score(negative)."""
    folder, photos = shared_data("sugarcrepe"), shared_data("coco") / "images"
    model = HashEmbedder()
    (result,) = evaluate(model, [Pairs(SugarCrepe(folder, photos))], tmp_path, progress=False).results
    embedded = {file.name: model.embed_images([Image(file)])[0] for file in sorted(photos.glob("*.jpg"))}
    by_kind = {}
    for file in sorted(folder.glob("*.json")):
        rows = list(json.loads(file.read_text()).values())
        true, false = (model.embed_texts([row[name] for row in rows]) for name in ("caption", "negative_caption"))
        right = [
            float(embedded[row["filename"]] @ yes > embedded[row["filename"]] @ no)
            for row, yes, no in zip(rows, true, false, strict=True)
        ]
        by_kind[file.stem] = (len(right), round(float(np.mean(right)), 9))
    assert {one.group: (one.items, round(one.value, 9)) for one in result.scores if one.group} == by_kind
    assert (result.headline.items, result.headline.failed) == (360, 0)


def test_cifar_by_zero_shot(tmp_path: Path) -> None:
    data = Folder(shared_data("cifar10") / "test")
    task = Classification(data, templates="openai", limit=50)
    (result,) = evaluate(HashEmbedder(), [task], tmp_path, progress=False).results
    assert result.headline.chance == pytest.approx(0.1)
    assert result.facts == {"classes": 10, "phrasings a class": 80}
    assert {one.group for one in result.scores} - {""} == {
        path.name for path in (shared_data("cifar10") / "test").iterdir()
    }
