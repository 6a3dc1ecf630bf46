"""Polls after things: POPE's rules, scikit-learn's figures, and constants that gain nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chiasm.data.sample import Box, Sample, Text
from chiasm.data.sources.coco import Coco
from chiasm.errors import CapabilityError, DataError, RecipeError
from chiasm.evaluation.polling import SPLITS, Polling
from chiasm.evaluation.request import Response, ScoreOrGenerate, ScoreRequest
from chiasm.evaluation.result import Score
from chiasm.evaluation.run import evaluate
from chiasm.evaluation.tasks.existence import Existence
from tests.evaluation.fakes import Echo, HashEmbedder, Listed, picture
from tests.shared_data import shared_data

ROOMS = (
    ("dog", "cat", "sofa"),
    ("dog", "cat", "sofa", "lamp"),
    ("dog", "lamp", "sofa"),
    ("orange", "dog", "tree", "car"),
    ("car", "tree", "bus"),
)


def rooms() -> Listed:
    def boxes(names: tuple[str, ...]) -> tuple[Box, ...]:
        return tuple(Box((0.0, 0.0, 0.5, 0.5), name) for name in (*names, names[0]))  # one thing twice

    listed = [Sample(f"r{at}", (picture(at),), boxes=boxes(names)) for at, names in enumerate(ROOMS)]
    return Listed((*listed, Sample("few", (picture(99),), boxes=boxes(("dog", "yeti")))))


class Says:
    """A generator that answers by a function of the question."""

    def __init__(self, reply: Callable[[str], str]) -> None:
        self.reply = reply

    def generate(self, samples: Sequence[Sample], *, max_tokens: int) -> list[Sample]:
        return [replace(one, parts=(*one.parts, Text(self.reply(one.texts[-1].text), target=True))) for one in samples]


def test_absent_things_follow_the_rules_of_the_paper() -> None:
    counts = Counter(name for names in ROOMS for name in names)
    beside = {name: Counter(other for names in ROOMS if name in names for other in names) for name in counts}
    polling = Polling(ROOMS)
    for names in ROOMS:
        for split in SPLITS:
            polled = list(polling.poll(names, split, 3, lambda below: below - 1))
            assert [name for name, there in polled if there] == list(names[:3])
            absent = [name for name, there in polled if not there]
            assert len(set(absent)) == 3
            assert not set(absent) & set(names)
            for at, name in enumerate(absent):
                left = set(counts) - set(names) - set(absent[:at])
                if split == "popular":
                    assert counts[name] == max(counts[one] for one in left)
                if split == "adversarial":
                    most = max(beside[names[at]][one] for one in left)
                    assert most == 0 or beside[names[at]][name] == most
    with pytest.raises(DataError, match="only 2 things, too few"):
        list(Polling([("a", "b")]).poll(("a", "b"), "popular", 2, lambda below: 0))


def test_questions_and_statements_say_the_same() -> None:
    task = Existence(rooms())
    assert len(task.requests) == len(ROOMS) * 3 * 6  # the picture with two things is not asked about
    orange = next(one for one in task.requests if isinstance(one, ScoreOrGenerate) and "orange" in one.texts[0][0])
    assert orange.texts == (("there is an orange",), ("there is no orange",))
    assert orange.words.sample.texts[-1].text == "Is there an orange in the image? Answer with yes or no."
    again = [one.texts for one in Existence(rooms()).requests if isinstance(one, ScoreRequest)]
    assert again == [one.texts for one in task.requests if isinstance(one, ScoreRequest)]
    assert [one.true for one in task.requests[:6] if isinstance(one, ScoreRequest)] == [(0,), (1,)] * 3
    seeds = [
        [one.texts for one in Existence(rooms(), seed=at).requests if isinstance(one, ScoreRequest)] for at in (0, 1)
    ]
    assert seeds[0] != seeds[1]
    with pytest.raises(RecipeError, match="at least one split"):
        Existence(rooms(), splits=())


def figures(task: Existence, answers: list[Response]) -> dict[str, float]:
    measured = task.measure(task.requests, answers)
    found = {}
    for metric in measured.metrics:
        under = len(metric.credit_I) if metric.weight_I is None else metric.weight_I.sum()
        found[metric.name] = float(metric.credit_I.sum() / under) if under else 0.0
    return found | dict(measured.facts)


def test_figures_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    task = Existence(rooms())
    generator = np.random.default_rng(0)
    for share in (0.2, 0.5, 0.9, 0.0):
        said = generator.random(len(task.requests)) < share
        true = np.array([one.true == (0,) for one in task.requests if isinstance(one, ScoreRequest)])
        found = figures(task, ["Yes." if one else "no" for one in said])
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(
            true, said, average="binary", zero_division=0.0
        )
        assert found["accuracy"] == pytest.approx(metrics.accuracy_score(true, said))
        assert (found["precision"], found["recall"], found["F1"]) == pytest.approx((precision, recall, f1))
        assert found["yes share of answers"] == pytest.approx(said.mean())
        assert found["yes share of right answers"] == 0.5  # what lmms-eval calls the yes ratio, for every model


def test_a_reply_without_yes_or_no_is_wrong_and_counted() -> None:
    task = Existence(rooms())
    replies: list[Response] = [*["Yes", "I see none", "yes, a dog", "no"] * (len(task.requests) // 4), "", ""]
    metric = task.measure(task.requests, replies[: len(task.requests)]).metrics[0]
    assert metric.lenient is not None
    assert metric.items.unparsed_I is not None
    assert metric.lenient.items.unparsed_I is not None
    said = [one for one in replies[: len(task.requests)] if isinstance(one, str)]
    assert metric.items.unparsed_I.tolist() == [one not in ("Yes", "no") for one in said]
    assert metric.lenient.items.unparsed_I.tolist() == [one in ("I see none", "") for one in said]
    assert not metric.items.failed_I.any()
    assert metric.credit_I[metric.items.unparsed_I].sum() == 0
    assert metric.items.choices[1] == "I see none"


def test_ratios_are_read_leniently_too() -> None:
    """Read leniently, whole sentences earn what the bare words earn; read strictly, nothing."""
    task = Existence(rooms())
    words = ["yes" if one else "no" for one in np.random.default_rng(1).random(len(task.requests)) < 0.7]
    bare = task.measure(task.requests, list(words)).metrics
    told = task.measure(task.requests, [f"{word}, as far as I see" for word in words]).metrics
    assert [one.name for one in told] == ["accuracy", "F1", "precision", "recall"]
    for strict, one in zip(bare, told, strict=True):
        assert one.credit_I.sum() == 0 < strict.credit_I.sum()
        assert one.lenient is not None
        np.testing.assert_array_equal(one.lenient.credit_I, strict.credit_I)
        np.testing.assert_array_equal(one.lenient.weight_I, strict.weight_I)


def score(task: Existence, model: object, folder: Path, name: str = "accuracy") -> Score:
    (result,) = evaluate(model, [task], folder, progress=False).results  # type: ignore[arg-type]  # fakes, by their verbs
    return next(one for one in result.scores if one.name == name and not one.group)


def test_constants_stand_beside_the_score_of_either_kind_of_model(tmp_path: Path) -> None:
    for at, model in enumerate((HashEmbedder(), Says(lambda text: "Yes"))):
        found = score(Existence(rooms()), model, tmp_path / str(at))
        assert found.baselines["always yes"] == found.baselines["always no"] == found.chance == 0.5
        f1 = score(Existence(rooms()), model, tmp_path / str(at), "F1")
        assert (f1.chance, f1.baselines["constant"]) == (0.5, 0.5)
        assert [f1.baselines[f"always {word}"] for word in ("yes", "no")] == pytest.approx([2 / 3, 0])
        assert f1.low <= f1.value <= f1.high
    assert found.value == 0.5
    assert found.lenient is not None
    asked = {
        one.key: one.words.sample.texts[-1].text
        for one in Existence(rooms()).requests
        if isinstance(one, ScoreOrGenerate)
    }
    assert len(asked) == 90


def test_form_chooses_who_can_be_asked(tmp_path: Path) -> None:
    with pytest.raises(CapabilityError, match="needs a model that can generate, but HashEmbedder"):
        score(Existence(rooms(), form="words"), HashEmbedder(), tmp_path)
    with pytest.raises(CapabilityError, match="needs a model that can embed or score, but Echo"):
        score(Existence(rooms(), form="statements"), Echo(), tmp_path)


def test_coco_boxes_make_polls() -> None:
    folder = shared_data("coco")
    data = Coco(folder / "images", instances=folder / "annotations" / "instances.json")
    task = Existence(data)
    shown = {one.key: {box.phrase for box in one.boxes} for one in data}
    asked = [one for one in task.requests if isinstance(one, ScoreRequest)]
    assert len(asked) == 18 * sum(len(names) >= 3 for names in shown.values()) > 0
    for one in asked:
        name = one.texts[1][0].removeprefix("there is no ")
        assert (name in shown[one.sample_key]) == (one.true == (0,))
    counts = Counter(name for names in shown.values() if len(names) >= 3 for name in names)
    popular = {one.sample_key: one.texts[1][0] for one in asked if one.key.endswith("/popular/1")}
    assert counts.most_common(1)[0][0] == "person"
    for key, statement in popular.items():
        most = max(count for name, count in counts.items() if name not in shown[key])
        assert counts[statement.removeprefix("there is no ")] == most
