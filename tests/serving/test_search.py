from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from chiasm.data.image import Image
from chiasm.errors import CapabilityError, ChiasmError, DataError
from chiasm.evaluation.run import quick_scores
from chiasm.evaluation.tasks.classification import Classification
from chiasm.evaluation.tasks.retrieval import Retrieval
from chiasm.models import siglip
from chiasm.models.model import Model
from chiasm.nn.image_towers import vit
from chiasm.serving import search
from chiasm.serving.index import Index
from chiasm.serving.search import Finder, read_names
from tests.serving.made import Uncalibrated, colour_model, folder_of, picture
from tests.worlds import COLOURS, Patches, tiny_clip, tiny_processor

QUIET = Console(file=io.StringIO())


def _index(photos: Path, model: Model | None = None) -> Index:
    index = Index(photos, model or colour_model(), photos.parent / "home")
    index.update(QUIET)
    return index


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "photos", each=3)


def test_words_find_what_they_say(photos: Path) -> None:
    finder = Finder(_index(photos))
    for name in COLOURS:
        hits = finder.find(finder.query([f"something {name}"]), top=3)
        assert {hit.entry.name for hit in hits} == {f"{name}/{seed}.png" for seed in range(3)}
        assert hits[0].score >= hits[1].score >= hits[2].score > 0.99


def test_a_picture_finds_itself_and_its_like(photos: Path) -> None:
    finder = Finder(_index(photos))
    hits = finder.find(finder.query(images=[Image(photos / "red" / "1.png")]), top=3)
    assert hits[0].entry.name == "red/1.png"
    assert hits[0].score == pytest.approx(1, abs=1e-6)
    outside = picture(photos.parent / "query.png", "blue", seed=77)
    assert finder.find(finder.query(images=[Image(outside)]), top=1)[0].entry.name.startswith("blue/")


def test_words_and_a_picture_count_alike(photos: Path) -> None:
    """The sum of standard scores, by which the query is weighed, written out."""
    finder = Finder(_index(photos, tiny_clip()))
    query = finder.query(["red and blue"], [Image(photos / "green" / "0.png")])
    entries, vectors = finder.entries, finder.vectors.rows()
    rows = vectors[[entry.row for entry in entries]].astype(np.float64)
    model = tiny_clip()
    parts = [model.embed_texts(["red and blue"])[0], model.embed_images([Image(photos / "green" / "0.png")])[0]]
    scores = [rows @ part.numpy() for part in parts]
    standard = sum((one - one.mean()) / one.std() for one in scores)
    assert [hit.entry for hit in finder.find(query, top=5)] == [entries[at] for at in np.argsort(-standard)[:5]]


def test_scores_are_those_of_the_model(photos: Path) -> None:
    finder, model = Finder(_index(photos, tiny_clip())), tiny_clip()
    hits = finder.find(finder.query(["red and blue"]), top=24)
    expected = model.score([Image(photos / hit.entry.name) for hit in hits], ["red and blue"])[:, 0]
    np.testing.assert_allclose([hit.score for hit in hits], expected.numpy(), atol=1e-6)


def test_the_graph_finds_what_the_product_finds(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = _index(photos)
    with index._database() as database, database:  # 2,000 pictures of which only the vectors exist
        vectors = index._vectors(database)
        drawn = np.random.default_rng(0).normal(size=(2000, index.width)).astype(np.float32)
        vectors.append(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))
        keys = [(f"k{at}", 24 + at, None, 2**40) for at in range(2000)]
        database.executemany("INSERT INTO contents VALUES (?, ?, ?, ?)", keys)
        # every second one is gone from the folder, and each tenth of the rest is there twice
        there = [(f"p{at}".encode(), 1, 1, 1, f"k{at}") for at in range(0, 2000, 2)]
        twice = [(f"q{at}".encode(), 1, 1, 1, f"k{at}") for at in range(0, 2000, 20)]
        database.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?)", there + twice)
    exact, graph = Finder(index), Finder(index, exact_up_to=10)
    assert index.graph_file(graph.vectors).exists()
    again = Finder(index, exact_up_to=10)
    rights = 0
    for seed in range(20):
        query = np.random.default_rng(seed + 1).normal(size=index.width).astype(np.float32)
        query /= np.linalg.norm(query)
        wanted, found = exact.find(query, 10), graph.find(query, 10)
        assert again.find(query, 10) == found
        assert [hit.score for hit in found] == pytest.approx(
            [float(exact.vectors.rows()[h.entry.row] @ query) for h in found]
        )
        rights += len({hit.entry.name for hit in wanted} & {hit.entry.name for hit in found})
    assert rights >= 195
    assert len(graph.find(query, 3000)) == len(exact.find(query, 3000)) == 24 + 1000 + 100
    monkeypatch.setitem(__import__("sys").modules, "usearch.index", None)
    with pytest.raises(ChiasmError, match=r"pip install 'chiasm\[search\]'"):
        Finder(index, exact_up_to=10)


def test_queries_find_as_often_as_the_retrieval_task_says(tmp_path: Path) -> None:
    """Every caption of every photo as a query: recall among the first 5 is the task's text to image R@5."""
    source, model = Patches(40), tiny_clip(2)
    for at, sample in enumerate(source):
        (tmp_path / "photos").mkdir(exist_ok=True)
        sample.image.decode().save(tmp_path / "photos" / f"{at}.png")
    recall = quick_scores(model, [Retrieval(source)])["retrieval: text to image R@5"]
    finder = Finder(_index(tmp_path / "photos", model))
    asked = [(f"{at}.png", caption) for at, sample in enumerate(source) for caption in sample.captions]
    found = [name in {hit.entry.name for hit in finder.find(finder.query([text]), 5)} for name, text in asked]
    assert sum(found) / len(found) == pytest.approx(recall)


def test_names_sort_as_the_classification_task_does(photos: Path) -> None:
    from chiasm.data.sources.folder import Folder

    model = tiny_clip(3)
    task = Classification(Folder(photos), templates="openai")
    accuracy = quick_scores(model, [task])["classification: top-1 accuracy"]
    found = Finder(_index(photos, model)).sort(sorted(COLOURS))
    right = [
        found.names[best] == entry.name.split("/")[0] for best, entry in zip(found.best_N, found.entries, strict=True)
    ]
    assert np.mean(right) == pytest.approx(accuracy)
    assert sum(found.counts().values()) == 24


def test_probabilities_are_the_models(photos: Path) -> None:
    """CLIP's are a softmax at its temperature, no colder than 1 / 100; transformers scales its logits the same way."""
    model = tiny_clip(3)
    index, names = _index(photos, model), ["red", "green", "blue"]
    cosines = model.score([Image(photos / entry.name) for entry in index.entries()[0]], names)
    for log_scale, scale in ((math.log(10), 10.0), (9.0, 100.0)):
        with torch.no_grad():
            model.log_scale.fill_(log_scale)
        found = Finder(index).sort(names, templates=["{}"])
        chances = (scale * cosines).softmax(dim=1)
        np.testing.assert_allclose(found.probability_N, chances.max(dim=1).values.numpy(), atol=1e-4)
        assert found.best_N.tolist() == chances.argmax(dim=1).tolist()


def test_siglip_judges_each_pair_alone(photos: Path) -> None:
    """A sigmoid of the scaled cosine plus the bias, so that chances need not sum to one (arXiv:2303.15343, eq. 1)."""
    torch.manual_seed(0)
    towers = tiny_clip().config
    assert isinstance(towers.vision, vit.Config)
    config = siglip.Config(replace(towers.vision, pool="map"), towers.text, scale=7.0, bias=-2.0)
    model = siglip.SigLIP(config, tiny_processor()).eval()
    index, names = _index(photos, model), ["red", "green", "blue"]
    found = Finder(index).sort(names, templates=["{}"])
    images = [Image(photos / entry.name) for entry in found.entries]
    expected = (7 * model.score(images, names).double() - 2).sigmoid().max(dim=1).values
    np.testing.assert_allclose(found.probability_N, expected.numpy(), atol=1e-3)


def test_mistakes_are_told(photos: Path) -> None:
    index = _index(photos)
    finder = Finder(index)
    with pytest.raises(ChiasmError, match="say what to look for"):
        finder.query()
    with pytest.raises(ChiasmError, match="--top must be at least 1"):
        finder.find(finder.query(["red"]), 0)
    with pytest.raises(ChiasmError, match="at least two names, all different"):
        finder.sort(["red"])
    with pytest.raises(ChiasmError, match=r"has no \{\} for the name"):
        finder.sort(["red", "blue"], ["a photo"])
    base = tiny_clip()
    uncalibrated = Finder(_index(photos, Uncalibrated(base.config, base.processor)))
    with pytest.raises(CapabilityError, match="no temperature"):
        uncalibrated.sort(["red", "blue"])


def test_names_come_between_commas_or_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("traffic light\n\n cat \ncat\n")
    assert read_names("dog, cat,,dog") == ["dog", "cat"]
    assert read_names(str(file)) == ["traffic light", "cat"]
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read"):
        read_names(str(file))


def test_an_empty_folder_finds_nothing(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    finder = Finder(_index(tmp_path / "photos"))
    assert finder.find(finder.query(["red"], []), 5) == []
    assert finder.sort(["red", "blue"]).counts() == {"red": 0, "blue": 0}
    assert search.EXACT_UP_TO > 10_000
