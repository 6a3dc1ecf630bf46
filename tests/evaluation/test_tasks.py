"""Tasks: what they ask, and that scores, ties and chance are exact."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from chiasm.config import dump, parse
from chiasm.data.sample import Negative, Sample, Text
from chiasm.errors import DataError
from chiasm.evaluation.request import Broken, Failed, Response, ScoreRequest
from chiasm.evaluation.statistics import value_of
from chiasm.evaluation.task import MetricCounts, Task
from chiasm.evaluation.tasks.classification import Classification
from chiasm.evaluation.tasks.pairs import Pairs
from chiasm.evaluation.tasks.probes import Probes
from chiasm.evaluation.tasks.quadruples import Quadruples
from chiasm.evaluation.tasks.retrieval import Retrieval
from chiasm.evaluation.templates import OPENAI
from tests.evaluation.fakes import Listed, picture, world


def matches(task: Task) -> list[ScoreRequest]:
    return [question for question in task.requests if isinstance(question, ScoreRequest)]


def random_answers(task: Task, generator: np.random.Generator, levels: int = 0) -> list[Response]:
    """Random scores; of few `levels`, so that many tie, or of none."""
    shapes = [(len(question.images), len(question.texts)) for question in matches(task)]
    if levels:
        return [generator.integers(0, levels, shape).astype(np.float32) for shape in shapes]
    return [generator.random(shape).astype(np.float32) for shape in shapes]


def measured(task: Task, answers: list[Response]) -> dict[str, MetricCounts]:
    return {metric.name: metric for metric in task.measure(task.requests, answers).metrics}


def tasks_of_all_kinds(count: int = 11) -> list[Task]:
    data = world(count)
    quads = tuple(
        Sample(f"q{at}", (picture(2 * at), Text(f"a {at}"), picture(2 * at + 1), Text(f"b {at}")))
        for at in range(count)
    )
    return [Retrieval(data), Pairs(data), Probes(data), Classification(data), Quadruples(Listed(quads))]


@pytest.mark.parametrize("task", tasks_of_all_kinds(), ids=lambda task: task.title)
def test_a_constant_scorer_gets_exactly_chance(task: Task) -> None:
    for metric in measured(task, [task.constant(question) for question in task.requests]).values():
        np.testing.assert_allclose(metric.credit_I, metric.chance_I, atol=1e-12)
        assert metric.items.tied_I.all()
        assert 0 < value_of(metric, metric.chance_I) < 1


@pytest.mark.parametrize("levels", [0, 3])
@pytest.mark.parametrize("task", tasks_of_all_kinds(), ids=lambda task: task.title)
def test_chance_is_the_mean_over_random_scorers(task: Task, levels: int) -> None:
    """Whether or not their scores tie: a tie is worth what chance would make of it."""
    generator = np.random.default_rng(0)
    runs = [measured(task, random_answers(task, generator, levels)) for _ in range(600)]
    for name, metric in runs[0].items():
        values = np.array([value_of(run[name], run[name].credit_I) for run in runs])
        error = values.std() / np.sqrt(len(values))
        assert abs(values.mean() - value_of(metric, metric.chance_I)) < 4 * error + 1e-12


def test_recall_is_that_of_the_sorted_order() -> None:
    """Against the plain definition, as clip_benchmark has it: is any true one among the first k?"""
    task = Retrieval(world(30, captions=3))
    scores = np.random.default_rng(1).permutation(30 * 90).reshape(30, 90).astype(np.float32)
    found = measured(task, [row[None] for row in scores])
    true = np.zeros((30, 90), bool)
    for row, question in enumerate(matches(task)):
        for column, (text,) in enumerate(question.texts):
            true[row, column] = text.startswith(f"picture {row},")
    assert true.sum() == 90
    for k in (1, 5, 10):
        to_text = [any(true[row, at] for at in np.argsort(-scores[row])[:k]) for row in range(30)]
        to_image = [any(true[at, column] for at in np.argsort(-scores[:, column])[:k]) for column in range(90)]
        np.testing.assert_array_equal(found[f"image to text R@{k}"].credit_I, to_text)
        np.testing.assert_array_equal(found[f"text to image R@{k}"].credit_I, to_image)
    ranks = [np.flatnonzero(true[row][np.argsort(-scores[row])])[0] + 1 for row in range(30)]
    facts = task.measure(task.requests, [row[None] for row in scores]).facts
    assert facts["image to text median rank"] == np.median(ranks)


def test_tied_recall_with_one_true_candidate() -> None:
    """All 512 matrices of zeros and ones: the true candidate gets its share of the tied places, by counting."""
    task = Retrieval(world(3, captions=1), k=(1, 2))
    for levels in product((0.0, 1.0), repeat=9):
        scores = np.array(levels, np.float32).reshape(3, 3)
        found = measured(task, [row[None] for row in scores])
        for way, matrix in (("image to text", scores), ("text to image", scores.T)):
            for item, row in enumerate(matrix):
                above, level = (row > row[item]).sum(), (row == row[item]).sum()
                for k in (1, 2):
                    expected = min(max(k - above, 0) / level, 1)
                    assert found[f"{way} R@{k}"].credit_I[item] == pytest.approx(expected)


def test_a_caption_of_several_pictures_is_right_for_each() -> None:
    data = Listed(
        (
            Sample("a", (picture(1),), ("a dog", "an animal")),
            Sample("b", (picture(2),), ("a cat", "an animal")),
            Sample("c", (picture(1),), ("a dog", "a puppy")),  # the picture of "a" again
        )
    )
    task = Retrieval(data, k=(1,))
    first, second = matches(task)
    assert first.texts == (("a dog",), ("an animal",), ("a cat",), ("a puppy",))
    assert (first.true, second.true) == ((0, 1, 3), (2, 1))
    result = task.measure(task.requests, [np.array([[0, 1, 0, 0]], np.float32), np.array([[0, 1, 0, 0]], np.float32)])
    found = {metric.name: metric for metric in result.metrics}
    assert found["image to text R@1"].credit_I.tolist() == [1, 1]
    assert dict(zip(found["text to image R@1"].items.keys, found["text to image R@1"].credit_I, strict=True)) == {
        "a dog": 0.5,
        "an animal": 1,
        "a cat": 0.5,
        "a puppy": 0.5,
    }
    facts = result.facts
    assert (facts["pictures"], facts["pictures met again"]) == (2, 1)
    assert (facts["captions"], facts["captions met again"]) == (4, 2)
    assert facts["captions shared by several pictures"] == 1


def test_retrieval_takes_all_captions_or_the_first() -> None:
    assert len(matches(Retrieval(world(4, captions=3)))[0].texts) == 12
    assert len(matches(Retrieval(world(4, captions=3), captions="first"))[0].texts) == 4


def test_pairs_and_probes_ask_what_the_sample_says() -> None:
    pair = matches(Pairs(world(6)))[2 * 4]
    assert (pair.texts, pair.true, pair.kind) == ((("picture 4 here",), ("picture 5 here",)), (0,), "number")
    probe = matches(Probes(world(6)))[4]
    assert probe.key == "s4/colour/0"
    assert probe.texts[probe.true[0]] == (f"picture 4: {world(6)[4].meta['answer']}",)
    (chance,) = measured(Probes(world(6)), random_answers(Probes(world(6)), np.random.default_rng(0))).values()
    np.testing.assert_allclose(chance.chance_I, [1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 2, 1 / 3])


def test_a_tie_of_two_earns_one_half() -> None:
    data = Listed((Sample("a", (picture(1),), negatives=(Negative("no", "yes", "k"),)),))
    for scores, credit in (([1, 0], 1.0), ([0, 1], 0.0), ([0, 0], 0.5)):
        (metric,) = measured(Pairs(data), [np.array([scores], np.float32)]).values()
        assert metric.credit_I.tolist() == [credit]
        assert metric.items.tied_I.tolist() == [credit == 0.5]


def test_classification_columns_are_templates_by_class(tmp_path: Path) -> None:
    task = Classification(world(10), templates=("a {}.", "the {}!"))
    question = matches(task)[2]
    assert question.texts[question.true[0]] == ("a blue.", "the blue!")
    assert all(one.texts is question.texts for one in matches(task))
    file = tmp_path / "classes.txt"
    file.write_text("white\nred\tcrimson red\nblue\ngreen\nblack\n")
    named = matches(Classification(world(10), classes=file))
    assert named[0].texts[1] == ("a photo of a crimson red.",)
    assert named[0].true == (1,)
    with pytest.raises(DataError, match=r"has no \{\} for"):
        _ = Classification(world(3), templates=("a photo",)).requests
    with pytest.raises(DataError, match="label 'red', which is not among the classes"):
        _ = Classification(world(1), classes=("blue", "green")).requests


def test_classification_scores_are_top_k_and_class_means() -> None:
    labels = ("a", "b", "c", "d", "e", "f", "g")
    numbers = [0, 0, 0, 1, 2, 3, 4, 5, 6, 6]
    data = Listed(tuple(Sample(f"{at}", (picture(at),), label=labels[n]) for at, n in enumerate(numbers)))
    scores = np.random.default_rng(0).random((10, 7)).astype(np.float32)
    found = measured(Classification(data), [row[None] for row in scores])
    top1 = scores.argmax(axis=1) == numbers
    top5 = [n in np.argsort(-row)[:5] for n, row in zip(numbers, scores, strict=True)]
    np.testing.assert_array_equal(found["top-1 accuracy"].credit_I, top1)
    np.testing.assert_array_equal(found["top-5 accuracy"].credit_I, top5)
    balanced = pytest.importorskip("sklearn.metrics").balanced_accuracy_score(numbers, scores.argmax(axis=1))
    assert value_of(found["mean per class"], found["mean per class"].credit_I) == pytest.approx(balanced)
    assert value_of(found["top-5 accuracy"], found["top-5 accuracy"].chance_I) == pytest.approx(5 / 7)


def test_openai_templates() -> None:
    """The list of CLIP's notebook: 80, none twice, and the fingerprint of the sorted original."""
    import hashlib

    assert len(OPENAI) == len(set(OPENAI)) == 80
    digest = hashlib.blake2b("\n".join(sorted(OPENAI)).encode(), digest_size=8).hexdigest()
    assert digest == "08de329618e45be4"


def test_quadruples_are_winogrounds_scores() -> None:
    """Against the official script's comparisons, for scores without ties."""
    task = tasks_of_all_kinds(200)[-1]
    answers = random_answers(task, np.random.default_rng(0))
    found = measured(task, answers)
    for item, answer in enumerate(answers):
        assert isinstance(answer, np.ndarray)
        (c0_i0, c1_i0), (c0_i1, c1_i1) = answer.tolist()
        text, image = c0_i0 > c1_i0 and c1_i1 > c0_i1, c0_i0 > c0_i1 and c1_i1 > c1_i0
        assert found["text score"].credit_I[item].round(9) == float(text)
        assert found["image score"].credit_I[item].round(9) == float(image)
        assert found["group score"].credit_I[item].round(9) == float(text and image)
    assert 0 < found["group score"].credit_I.sum() < found["text score"].credit_I.sum()


def test_what_cannot_be_read_is_an_item_that_counts_as_wrong() -> None:
    data = replace(world(6), broken=("s2",))
    for task in (
        Retrieval(data),
        Pairs(data),
        Classification(data, classes=("red", "green", "blue", "white", "black")),
    ):
        assert [one for one in task.requests if isinstance(one, Broken)] == [Broken("sample 2", "s2 is broken")]
        perfect: list[Response] = []
        for question in task.requests:
            if isinstance(question, ScoreRequest):
                row = np.zeros((1, len(question.texts)), np.float32)
                row[0, list(question.true)] = 1
                perfect.append(row)
            else:
                perfect.append(Failed("s2 is broken"))
        first = task.measure(task.requests, perfect).metrics[0]
        assert first.items.failed_I.sum() == 1
        assert first.credit_I.sum() == len(first.credit_I) - 1
        assert first.chance_I[first.items.failed_I].tolist() == [0]


def test_failed_pictures_are_no_candidates_and_their_captions_are_lost() -> None:
    task = Retrieval(world(4, captions=1), k=(1,))
    answers: list[Response] = [row[None] for row in np.eye(4, dtype=np.float32)]
    answers[1] = Failed("broken")
    found = measured(task, answers)
    for name in ("image to text R@1", "text to image R@1"):
        assert found[name].credit_I.tolist() == [1, 0, 1, 1]
        assert found[name].items.failed_I.tolist() == [False, True, False, False]
    facts = task.measure(task.requests, answers).facts
    assert facts["image to text median rank"] == 1


def test_limit_is_spread_over_the_data() -> None:
    assert [one.sample_key for one in matches(Classification(world(10), limit=4))] == ["s0", "s2", "s5", "s7"]
    assert len(matches(Classification(world(3), limit=40))) == 3


def test_nothing_to_ask_is_an_error() -> None:
    data = Listed((Sample("a", (picture(1),), ("caption",)),))
    with pytest.raises(DataError, match="task 'pairs' finds nothing to ask about in 1 samples"):
        _ = Pairs(data).requests
    with pytest.raises(DataError, match="'a' has no label"):
        _ = Classification(data).requests


def test_keys_that_a_source_repeats_are_told_apart() -> None:
    sample = Sample("same", (picture(1),), label="x")
    assert [one.key for one in Classification(Listed((sample, sample, sample))).requests] == [
        "same",
        "same#2",
        "same#3",
    ]


def test_tasks_are_recipe_entries(tmp_path: Path) -> None:
    (tmp_path / "captions.jsonl").write_text("")
    entry = {"task": "retrieval", "data": {"source": "captions", "path": str(tmp_path / "captions.jsonl")}, "k": [1, 3]}
    task = parse(Retrieval, entry)
    assert (task.title, task.k) == ("retrieval", (1, 3))
    assert parse(Retrieval, dump(task)) == task
    assert {"classification", "pairs", "probes", "quadruples", "retrieval"} <= set(Task.names())
    entry = {"task": "classification", "data": entry["data"], "templates": "openai"}
    assert parse(Classification, entry).templates == "openai"
    assert parse(Classification, entry | {"templates": ["a {}"]}).templates == ("a {}",)
