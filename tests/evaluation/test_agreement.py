"""Zero-shot figures are those of the peers: open_clip's classifier, clip_benchmark's metrics, on real photos.

Where definitions differ, both sides are held to the difference: a peer breaks ties by the order in which things happen
to stand, here a tie earns its share; a peer counts a caption of two pictures as two, each right for one of them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from chiasm.data.sample import Sample
from chiasm.data.sources.captions import Captions
from chiasm.data.sources.folder import Folder
from chiasm.evaluation.run import quick_scores
from chiasm.evaluation.statistics import value_of
from chiasm.evaluation.task import Task
from chiasm.evaluation.tasks.classification import Classification
from chiasm.evaluation.tasks.retrieval import Retrieval
from chiasm.evaluation.templates import OPENAI
from chiasm.models import clip
from chiasm.weights import open_clip as adapter
from tests import peers
from tests.evaluation.fakes import Listed, picture
from tests.shared_data import shared_data
from tests.weights.test_open_clip import CONTEXT, VIT, model_cfg, peer_model, written

pytestmark = pytest.mark.xdist_group("agreement")

TEMPLATES = ("a photo of a {}.", "a blurry photo of the {}.", "{} seen from above")


def _metrics(name: str) -> Any:
    """A module of clip_benchmark; skips the test where it is not installed."""
    for package in ("clip_benchmark", "sklearn", "tqdm"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: `make test` installs the packages of peers.txt")
    module: Any = importlib.import_module(f"clip_benchmark.metrics.{name}")
    module.float = _number  # its own calls turn arrays of one number into floats, which numpy no longer does
    return module


def _number(one: Any) -> float:
    return float(np.asarray(one).item())


@dataclass(frozen=True)
class Both:
    """One model twice: as open_clip's own code has it, and as chiasm reads it."""

    peer: Any
    ours: clip.CLIP
    pixels: Any  # open_clip's own transform

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """A tokenizer as the peers call it."""
        found = self.ours.processor.texts(list(texts)).ids_BT
        return torch.nn.functional.pad(found, (0, CONTEXT - found.shape[1]))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    open_clip = peers.open_clip()
    settings = model_cfg(VIT)
    peer = peer_model(open_clip, settings)
    ours = adapter.load(written(open_clip, tmp_path_factory.mktemp("model"), peer, settings))
    assert isinstance(ours, clip.CLIP)
    transform = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**peer.visual.preprocess_cfg), False
    )
    return Both(peer, ours, transform)


class Loader:
    """Batches as clip_benchmark wants them; `dataset.classes` names the classes."""

    def __init__(self, pairs: Sequence[tuple[Tensor, Any]], classes: Sequence[str] = (), batch: int = 64) -> None:
        self.pairs, self.classes, self.batch = pairs, classes, batch
        self.dataset = self

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        for at in range(0, len(self.pairs), self.batch):
            pictures, targets = zip(*self.pairs[at : at + self.batch], strict=True)
            yield torch.stack(pictures), torch.tensor(targets) if isinstance(targets[0], int) else list(targets)


def _cifar() -> Folder:
    return Folder(shared_data("cifar10") / "test")


def test_the_templates_are_those_of_open_clip() -> None:
    theirs = [one("CLASS") for one in peers.open_clip().OPENAI_IMAGENET_TEMPLATES]
    assert sorted(theirs) == sorted(one.replace("{}", "CLASS") for one in OPENAI)
    assert len(set(theirs)) == 80


@pytest.mark.parametrize("templates", [TEMPLATES[:1], TEMPLATES, "openai"])
def test_classification_is_that_of_the_peers(both: Both, templates: Any) -> None:
    """The whole way: their pixels, their model, their classifier and their metrics, against ours."""
    task = Classification(_cifar(), limit=400, templates=templates)
    found = quick_scores(both.ours, [task])
    samples = [one for one in task.samples() if isinstance(one, Sample)]
    classes = sorted({str(one.label) for one in samples})
    pairs = [(both.pixels(one.image.decode()), classes.index(str(one.label))) for one in samples]
    sentences = list(OPENAI if templates == "openai" else templates)

    theirs = _metrics("zeroshot_classification").evaluate(
        both.peer,
        Loader(pairs, classes),
        both.tokens,
        classes,
        [one.replace("{}", "{c}") for one in sentences],
        "cpu",
        amp=False,
    )
    assert found["classification: top-1 accuracy"] == pytest.approx(theirs["acc1"], abs=1e-9)
    assert found["classification: top-5 accuracy"] == pytest.approx(theirs["acc5"], abs=1e-9)
    assert found["classification: mean per class"] == pytest.approx(theirs["mean_per_class_recall"], abs=1e-9)
    assert 0 < theirs["acc1"] < theirs["acc5"] < 1

    open_clip = peers.open_clip()
    classifier_DC = open_clip.build_zero_shot_classifier(both.peer, both.tokens, classes, sentences)
    with torch.no_grad():
        image_ND = both.peer.encode_image(torch.stack([pixels for pixels, _ in pairs]), normalize=True)
    best_N = (image_ND @ classifier_DC).argmax(1).tolist()
    right = sum(best == label for best, (_, label) in zip(best_N, pairs, strict=True))
    assert found["classification: top-1 accuracy"] == pytest.approx(right / len(pairs), abs=1e-9)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_classes_may_be_named_by_a_file(both: Both, tmp_path: Path) -> None:
    """Names that say something else than the folders, in an order of their own; classes without a picture count."""
    labels = ["truck", "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "never seen"]
    names = [f"{one} number {at}" for at, one in enumerate(labels)]
    (tmp_path / "classes.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in zip(labels, names, strict=True)))
    task = Classification(_cifar(), limit=200, classes=tmp_path / "classes.tsv", templates=TEMPLATES)
    found = quick_scores(both.ours, [task])
    samples = [one for one in task.samples() if isinstance(one, Sample)]
    pairs = [(both.pixels(one.image.decode()), labels.index(str(one.label))) for one in samples]
    templates = [one.replace("{}", "{c}") for one in TEMPLATES]
    theirs = _metrics("zeroshot_classification").evaluate(
        both.peer, Loader(pairs, names), both.tokens, names, templates, "cpu", amp=False
    )
    assert found["classification: top-1 accuracy"] == pytest.approx(theirs["acc1"], abs=1e-9)
    assert found["classification: mean per class"] == pytest.approx(theirs["mean_per_class_recall"], abs=1e-9)


@pytest.mark.parametrize("captions", ["all", "first"])
def test_retrieval_is_that_of_clip_benchmark(both: Both, captions: Any) -> None:
    """On Flickr8k's val photos; a photo is right if any of its captions is among the first k.

    Pixels are ours on both sides: torchvision's middle crop lies one pixel off in photos of some sizes (see
    ImageTransform), which is no matter of recall.
    """
    data = Captions(shared_data("flickr8k") / "captions.jsonl", split="val")
    task = Retrieval(data, captions=captions)
    found = quick_scores(both.ours, [task])
    samples = list(data)
    told = [list(one.captions) if captions == "all" else [one.captions[0]] for one in samples]
    assert len({text for several in told for text in several}) == sum(map(len, told)), "a caption of two photos"
    pixels = both.ours.processor.images([one.image for one in samples]).pixels
    theirs = _metrics("zeroshot_retrieval").evaluate(
        both.peer,
        Loader(list(zip(pixels, told, strict=True)), batch=32),
        both.tokens,
        "cpu",
        amp=False,
        recall_k_list=[1, 5, 10],
    )
    for k in (1, 5, 10):
        assert found[f"retrieval: image to text R@{k}"] == pytest.approx(theirs[f"text_retrieval_recall@{k}"], abs=1e-6)
        assert found[f"retrieval: text to image R@{k}"] == pytest.approx(
            theirs[f"image_retrieval_recall@{k}"], abs=1e-6
        )
    assert 0 < theirs["text_retrieval_recall@10"] < 1


def _value(task: Task, scores_NC: NDArray[np.float32], name: str) -> float:
    """A metric of a task whose questions are answered by the rows of a matrix."""
    metrics = {one.name: one for one in task.measure(task.requests, list(scores_NC[:, None])).metrics}
    return value_of(metrics[name], metrics[name].credit_I)


def _world(labels: Sequence[int], classes: int) -> Classification:
    samples = (Sample(f"s{at}", (picture(at),), label=f"c{label}") for at, label in enumerate(labels))
    return Classification(Listed(tuple(samples)), classes=tuple(f"c{at}" for at in range(classes)))


def test_random_scores_have_the_peers_accuracies() -> None:
    metrics = _metrics("zeroshot_classification")
    generator = np.random.default_rng(0)
    for classes, count in ((6, 50), (30, 200)):
        labels = generator.integers(0, classes, count)
        scores = generator.random((count, classes)).astype(np.float32)
        task = _world(labels.tolist(), classes)
        first, fifth = metrics.accuracy(torch.from_numpy(scores), torch.from_numpy(labels), topk=(1, 5))
        assert _value(task, scores, "top-1 accuracy") == pytest.approx(first)
        assert _value(task, scores, "top-5 accuracy") == pytest.approx(fifth)
        mean = metrics.balanced_accuracy_score(labels, scores.argmax(1))
        assert _value(task, scores, "mean per class") == pytest.approx(mean)


def test_where_ties_differ() -> None:
    """All scores alike: the peer's figure is the share of the class that topk happens to name, ours is chance."""
    metrics = _metrics("zeroshot_classification")
    labels, classes = [0] * 8 + [7] * 2, 8
    scores = np.zeros((10, classes), np.float32)
    named = int(torch.zeros(1, classes).topk(1, 1, True, True)[1])
    (first,) = metrics.accuracy(torch.from_numpy(scores), torch.tensor(labels), topk=(1,))
    assert first == labels.count(named) / 10
    assert _value(_world(labels, classes), scores, "top-1 accuracy") == pytest.approx(1 / 8)
    assert _value(_world(labels, classes), scores, "top-5 accuracy") == pytest.approx(5 / 8)

    recall = _metrics("zeroshot_retrieval").recall_at_k(torch.zeros(8, 8), torch.eye(8, dtype=torch.bool), 2)
    assert sorted(recall.tolist()) == [0.0] * 6 + [1.0] * 2  # the same two places are named for every query
    data = Listed(tuple(Sample(f"s{at}", (picture(at),), (f"text {at}",)) for at in range(8)))
    credit_I = (
        Retrieval(data, k=(2,))
        .measure(Retrieval(data, k=(2,)).requests, list(np.zeros((8, 1, 8), np.float32)))
        .metrics[0]
        .credit_I
    )
    np.testing.assert_allclose(credit_I, 2 / 8)


def test_where_a_caption_of_two_pictures_differs() -> None:
    """Both pictures are called "a dog". The peer has two equal columns, of which each is right for one picture and a
    tie for the other; here it is one column, right for both."""
    data = Listed(
        tuple(Sample(f"s{at}", (picture(at),), (text,)) for at, text in enumerate(("a dog", "a dog", "a cat")))
    )
    scores_to_text = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.6]], np.float32)  # columns: a dog, a cat
    task = Retrieval(data, k=(1,))
    assert _value(task, scores_to_text, "image to text R@1") == 1
    assert _value(task, scores_to_text, "text to image R@1") == 1
    metrics = _metrics("zeroshot_retrieval")
    theirs_TI = torch.from_numpy(scores_to_text.T[[0, 0, 1]].copy())
    own = torch.eye(3, dtype=torch.bool)
    assert metrics.recall_at_k(theirs_TI, own, 1).tolist() == [1, 0, 1]  # the first picture wins both of the captions
    to_text = metrics.recall_at_k(theirs_TI.T.contiguous(), own, 1)
    assert to_text.sum() == 2  # one of the two dogs is told to be wrong, by the order of the columns
    apart = Listed(tuple(replace(one, captions=(f"{one.captions[0]} {at}",)) for at, one in enumerate(data)))
    scores_TI = theirs_TI.numpy().copy()
    scores_TI[1] -= 1e-3  # without ties and without shared captions both agree again
    agreed = [metrics.recall_at_k(one, own, 1).mean() for one in map(torch.from_numpy, (scores_TI, scores_TI.T.copy()))]
    assert _value(Retrieval(apart, k=(1,)), scores_TI.T.copy(), "text to image R@1") == pytest.approx(float(agreed[0]))
    assert _value(Retrieval(apart, k=(1,)), scores_TI.T.copy(), "image to text R@1") == pytest.approx(float(agreed[1]))


def test_several_captions_count_as_in_the_papers_and_not_as_recall_proper() -> None:
    """recall_at_k itself is the share of a photo's captions that were found; clip_benchmark's figure, as ours, is
    whether any was."""
    metrics = _metrics("zeroshot_retrieval")
    scores = np.random.default_rng(3).random((12, 36)).astype(np.float32)
    data = Listed(
        tuple(Sample(f"s{at}", (picture(at),), tuple(f"text {at} {one}" for one in range(3))) for at in range(12))
    )
    own_NC = torch.zeros(12, 36, dtype=torch.bool)
    own_NC[torch.arange(36) // 3, torch.arange(36)] = True
    recall = metrics.recall_at_k(torch.from_numpy(scores), own_NC, 5)
    task = Retrieval(data, k=(5,))
    assert _value(task, scores, "image to text R@5") == pytest.approx(float((recall > 0).float().mean()))
    assert float(recall.mean()) < float((recall > 0).float().mean())


def test_pictures_reach_both_sides_alike(both: Both) -> None:
    """The comparison above would be idle if the embeddings were not the same ones."""
    images = [Folder(shared_data("cifar10") / "test")[at].image for at in range(0, 60, 7)]
    theirs = torch.stack([both.pixels(one.decode()) for one in images])
    with torch.no_grad():
        torch.testing.assert_close(
            both.ours.embed_images(images), both.peer.encode_image(theirs, normalize=True), atol=1e-5, rtol=0
        )
