"""The runner: every verb, every baseline, nothing asked twice, nothing lost."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from chiasm.data.image import Image
from chiasm.data.sample import Sample
from chiasm.data.transforms import ImageTransform
from chiasm.errors import CapabilityError, DataError, RecipeError
from chiasm.evaluation.comparison import answers_file
from chiasm.evaluation.examples import COMMON, RIGHT
from chiasm.evaluation.outcomes import differences, read
from chiasm.evaluation.ranking import hit_share
from chiasm.evaluation.request import Failed, GenerateRequest, Request, Response, ScoreRequest
from chiasm.evaluation.result import Evaluation, Example, Score, TaskResult
from chiasm.evaluation.run import evaluate, quick_scores
from chiasm.evaluation.statistics import Difference
from chiasm.evaluation.task import Items, Measured, MetricCounts, Show, Task
from chiasm.evaluation.tasks.classification import Classification
from chiasm.evaluation.tasks.pairs import Pairs
from chiasm.evaluation.tasks.probes import Probes
from chiasm.evaluation.tasks.retrieval import Retrieval
from tests.evaluation.fakes import (
    ConstantEmbedder,
    Echo,
    FunctionScorer,
    HashEmbedder,
    number_of,
    picture,
    sees,
    undecodable,
    world,
)
from tests.worlds import Patches, tiny_clip


@dataclass(frozen=True)
class NumberAsked(Task):
    """Asks a generator for the picture's number."""

    def construct_requests(self, sample: Sample) -> Iterable[Request]:
        yield GenerateRequest(sample.key, sample, max_tokens=4)

    def measure(self, requests: Sequence[Request], responses: Sequence[Response]) -> Measured:
        right = [
            isinstance(one, GenerateRequest) and answer == f"number {one.sample.meta.get('number', one.key[1:])}"
            for one, answer in zip(requests, responses, strict=True)
        ]
        failed = np.array([isinstance(answer, Failed) for answer in responses])
        keys, none = tuple(one.key for one in requests), np.zeros(len(requests), np.bool_)
        items = Items(keys, keys, ("",) * len(keys), none, failed, tuple(str(one) for one in responses))
        return Measured((MetricCounts("exact", items, np.array(right, float), np.zeros(len(keys))),))

    def examples(self, requests: Sequence[Request], responses: Sequence[Response], show: Show) -> Sequence[Example]:
        return []


def all_tasks(count: int = 12) -> list[Task]:
    data = world(count)
    return [Retrieval(data), Pairs(data), Probes(data), Classification(data)]


def run(model: object, tasks: Sequence[Task], folder: Path, **rest: object) -> Evaluation:
    return evaluate(model, tasks, folder, progress=False, **rest)  # type: ignore[arg-type]  # fakes, by their verbs


def unseconded(evaluation: Evaluation) -> list[TaskResult]:
    return [replace(result, seconds=0) for result in evaluation.results]


def score(evaluation: Evaluation, task: str, name: str, group: str = "") -> Score:
    result = next(one for one in evaluation.results if one.name == task)
    return next(one for one in result.scores if (one.name, one.group) == (name, group))


def test_each_picture_and_text_is_embedded_once(tmp_path: Path) -> None:
    model, tasks = HashEmbedder(), all_tasks()
    run(model, tasks, tmp_path)
    asked = [one for task in tasks for one in task.requests if isinstance(one, ScoreRequest)]
    assert Counter(model.pictures).most_common(1)[0][1] == 1
    assert len(model.pictures) == 12 + 1  # and the grey one
    assert Counter(model.texts) == Counter({text for one in asked for several in one.texts for text in several})


def test_a_constant_model_gets_exactly_chance_everywhere(tmp_path: Path) -> None:
    for at, model in enumerate((ConstantEmbedder(), FunctionScorer(lambda number, text: 0.3))):
        found = run(model, all_tasks(), tmp_path / str(at))
        for result in found.results:
            for one in result.scores:
                assert one.value == pytest.approx(one.chance, abs=1e-12)
                assert one.ties == 1
                assert set(one.baselines) == {"constant", "blind", "shuffled"}
                assert all(value == pytest.approx(one.chance, abs=1e-12) for value in one.baselines.values())


def test_an_oracle_is_right_and_at_chance_when_blind(tmp_path: Path) -> None:
    found = run(FunctionScorer(sees), [Retrieval(world(20)), Pairs(world(20))], tmp_path)
    for name in ("image to text R@1", "text to image R@1"):
        recall = score(found, "retrieval", name)
        assert (recall.value, recall.low, recall.high) == (1, 1, 1)
        assert recall.baselines["blind"] == pytest.approx(recall.chance) == pytest.approx(1 / 20)
        assert recall.baselines["shuffled"] == 0
    # 2 captions of 40 are right, 5 are drawn
    chance = hit_share(np.array([0]), np.array([40]), np.array([2]), 5)[0]
    assert score(found, "retrieval", "image to text R@5").chance == pytest.approx(chance)
    number = score(found, "pairs", "accuracy", "number")
    assert (number.value, number.baselines["blind"], number.baselines["constant"]) == (1, 0.5, 0.5)
    # "no picture" gives itself away without a look: the blind run says so.
    assert score(found, "pairs", "accuracy", "negation").baselines["blind"] == 1
    assert score(found, "pairs", "accuracy").items == 40


def test_embeddings_score_as_the_plain_product_says(tmp_path: Path) -> None:
    """Zero-shot classification as in open_clip: mean of unit embeddings a class, scaled to unit length."""
    model, templates = HashEmbedder(), ("a {}.", "the {}.", "one {}!")
    task = Classification(world(40), templates=templates)
    found = run(model, [task], tmp_path)
    image = model.embed_images([sample.image for sample in world(40)])
    classes = sorted({str(sample.label) for sample in world(40)})
    weights = []
    for name in classes:
        mean = nn.functional.normalize(model.embed_texts([one.format(name) for one in templates]), dim=-1).mean(dim=0)
        weights.append(mean / mean.norm())
    predicted = (100 * image @ torch.stack(weights).T).argmax(dim=1)
    right = [classes[at] == sample.label for at, sample in zip(predicted.tolist(), world(40), strict=True)]
    assert score(found, "classification", "top-1 accuracy").value == pytest.approx(np.mean(right))


def test_a_scorers_phrasings_are_averaged(tmp_path: Path) -> None:
    said = {"a red.": 0.9, "the red.": 0.0, "a green.": 0.5, "the green.": 0.5}  # the means are 0.45 and 0.5
    task = Classification(world(2), templates=("a {}.", "the {}."))
    found = run(FunctionScorer(lambda number, text: said[text]), [task], tmp_path)
    assert score(found, "classification", "top-1 accuracy", "green").value == 1
    assert score(found, "classification", "top-1 accuracy", "red").value == 0


@pytest.mark.parametrize("stop_after", [0, 3, 7, 9])
def test_a_scorer_that_was_stopped_is_asked_only_what_is_left(tmp_path: Path, stop_after: int) -> None:
    tasks = [Retrieval(world(9)), Pairs(world(9))]
    whole = FunctionScorer(sees)
    expected = run(whole, tasks, tmp_path / "whole", fingerprint="m")
    stopped = FunctionScorer(sees, stop_after)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, tasks, tmp_path / "parts", fingerprint="m")
    assert len(stopped.asked) == stop_after
    rest = FunctionScorer(sees)
    found = run(rest, tasks, tmp_path / "parts", fingerprint="m")
    assert unseconded(found) == unseconded(expected)
    # What the memory of one process saves is little: the grey picture may be asked once more.
    assert set(stopped.asked) | set(rest.asked) == set(whole.asked)
    assert len(stopped.asked) + len(rest.asked) <= len(whole.asked) + 1
    again = FunctionScorer(sees)
    assert unseconded(run(again, tasks, tmp_path / "parts", fingerprint="m")) == unseconded(expected)
    assert again.asked == []


def test_an_embedder_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chiasm.evaluation.embeddings._IMAGES", 4)
    monkeypatch.setattr("chiasm.evaluation.embeddings._TEXTS", 8)
    expected = run(HashEmbedder(), all_tasks(), tmp_path / "whole", fingerprint="m")
    stopped = HashEmbedder(stop_after=9)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, all_tasks(), tmp_path / "parts", fingerprint="m")
    assert len(stopped.pictures) == 8
    rest = HashEmbedder()
    assert unseconded(run(rest, all_tasks(), tmp_path / "parts", fingerprint="m")) == unseconded(expected)
    assert len(rest.pictures) == 13 - 8
    assert not set(rest.pictures) & set(stopped.pictures)


def test_what_a_kill_cut_short_is_dropped(tmp_path: Path) -> None:
    tasks: list[Task] = [Pairs(world(9))]
    expected = run(HashEmbedder(), tasks, tmp_path, fingerprint="m")
    with (tmp_path / "cache" / "images.f32").open("ab") as file:
        file.write(b"\0" * 37)
    with (tmp_path / "cache" / "texts.keys").open("a") as file:
        file.write('"a text without its ro')
    rest = HashEmbedder()
    assert unseconded(run(rest, tasks, tmp_path, fingerprint="m")) == unseconded(expected)
    assert not rest.pictures + rest.texts
    run(FunctionScorer(sees), tasks, tmp_path / "scorer", fingerprint="s")
    responses = tmp_path / "scorer" / "cache" / "pairs.jsonl"
    responses.write_text(responses.read_text()[:-20])
    last = FunctionScorer(sees)
    run(last, tasks, tmp_path / "scorer", fingerprint="s")
    assert len(last.asked) == 1


@pytest.mark.parametrize("fingerprint", ["other", ""])
def test_answers_of_another_model_are_not_used(tmp_path: Path, fingerprint: str) -> None:
    tasks: list[Task] = [Pairs(world(9))]
    run(HashEmbedder(), tasks, tmp_path, fingerprint=fingerprint and "m")
    run(FunctionScorer(sees), tasks, tmp_path / "scorer", fingerprint=fingerprint and "m")
    other, scorer = HashEmbedder(seed=1), FunctionScorer(sees)
    run(other, tasks, tmp_path, fingerprint=fingerprint)
    run(scorer, tasks, tmp_path / "scorer", fingerprint=fingerprint)
    assert len(other.pictures) == 10
    assert len(scorer.asked) == 10


def test_answers_under_another_protocol_are_not_used(tmp_path: Path) -> None:
    run(FunctionScorer(sees), [Classification(world(9))], tmp_path, fingerprint="m")
    other = FunctionScorer(sees)
    found = run(other, [Classification(world(9), templates=("a {}",))], tmp_path, fingerprint="m")
    assert len(other.asked) == 9 + 1
    same = run(other, [Classification(world(9), name="classification")], tmp_path / "b", fingerprint="x")
    assert found.results[0].protocol != same.results[0].protocol


def test_the_protocol_is_what_is_asked_not_where_it_lies(tmp_path: Path) -> None:
    def protocol(task: Task) -> str:
        return run(HashEmbedder(), [task], tmp_path).results[0].protocol

    base = protocol(Pairs(world(5)))
    assert protocol(Pairs(world(5), name="another")) == base
    assert protocol(Pairs(world(4))) != base
    assert protocol(Pairs(world(5), limit=3)) != base
    first, *others = world(5).samples
    negatives = (replace(first.negatives[0], text="another"), first.negatives[1])
    for changed in (replace(first, parts=(picture(99),)), replace(first, negatives=negatives)):
        assert protocol(Pairs(replace(world(5), samples=(changed, *others)))) != base


def test_a_picture_that_cannot_be_decoded_counts_as_wrong(tmp_path: Path) -> None:
    samples = list(world(12).samples)
    samples[3] = replace(samples[3], parts=(undecodable(),))
    data = replace(world(12), samples=tuple(samples))
    for at, model in enumerate((HashEmbedder(), FunctionScorer(sees))):
        tasks = [Pairs(data), Retrieval(data)]
        found = run(model, tasks, tmp_path / str(at))
        pairs, recall = score(found, "pairs", "accuracy"), score(found, "retrieval", "text to image R@1")
        assert (pairs.items, pairs.failed) == (24, 2)
        assert (recall.items, recall.failed) == (24, 2)
        if at:
            assert pairs.value == pytest.approx(22 / 24)
            lines = [json.loads(line) for line in (tmp_path / "1" / "cache" / "pairs.jsonl").read_text().splitlines()]
            failures = [line for line in lines if "failed" in line and line["run"] == ""]
            assert [line["key"] for line in failures] == ["s3/number/0", "s3/negation/1"]
            assert "is not a picture" in failures[0]["failed"]


def test_scores_that_are_not_numbers_count_as_wrong(tmp_path: Path) -> None:
    def diverged(number: int, text: str) -> float:
        return float("nan") if number == 2 else sees(number, text)

    accuracy = score(run(FunctionScorer(diverged), [Pairs(world(4))], tmp_path), "pairs", "accuracy")
    assert (accuracy.value, accuracy.failed) == (6 / 8, 2)


def test_a_generator_is_asked_to_go_on(tmp_path: Path) -> None:
    task = NumberAsked(world(20))
    found = run(Echo(), [task], tmp_path, fingerprint="m")
    exact = score(found, task.title, "exact")
    assert exact.value == 1
    assert exact.baselines["blind"] == exact.baselines["shuffled"] == exact.baselines["constant"] == 0
    stopped = Echo(stop_after=16)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, [task], tmp_path / "parts", fingerprint="m")
    rest = Echo()
    assert unseconded(run(rest, [task], tmp_path / "parts", fingerprint="m")) == unseconded(found)
    assert stopped.asked == [f"s{at}" for at in range(16)]
    assert rest.asked == [f"s{at}" for at in [*range(16, 20), *range(20), *range(20)]]


def test_a_broken_sample_does_not_take_its_batch_with_it(tmp_path: Path) -> None:
    samples = list(world(10).samples)
    samples[3] = replace(samples[3], parts=(undecodable(),))
    task = NumberAsked(replace(world(10), samples=tuple(samples)))
    exact = score(run(Echo(), [task], tmp_path), task.title, "exact")
    assert (exact.value, exact.failed) == (0.9, 1)


def test_a_model_without_the_verb_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    model = HashEmbedder()
    with pytest.raises(
        CapabilityError, match=r"task '[a-z.]*test_run' needs a model that can generate, but HashEmbedder can"
    ):
        run(model, [Pairs(world(3)), NumberAsked(world(3))], tmp_path)
    assert not model.pictures
    with pytest.raises(CapabilityError, match="can embed or score, but Echo can only generate"):
        quick_scores(Echo(), [Pairs(world(3))])


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="two tasks are called 'pairs' and 'pairs'"):
        run(HashEmbedder(), [Pairs(world(3)), Pairs(world(4))], tmp_path)


def test_everything_is_on_disk(tmp_path: Path) -> None:
    found = run(HashEmbedder(), all_tasks(), tmp_path, about={"name": "hash", "step": "7"})
    assert Evaluation.load(tmp_path) == found
    assert found.model == {"name": "hash", "step": "7"}
    for result in found.results:
        lines = [json.loads(line) for line in (tmp_path / "answers" / f"{result.name}.jsonl").read_text().splitlines()]
        credit = [line["credit"][result.headline.name] for line in lines if result.headline.name in line["credit"]]
        assert len(credit) == result.headline.items
        assert np.mean(credit) == pytest.approx(result.headline.value)
        pictures = [one.picture for example in result.examples for one in _shown(example) if one.picture]
        assert pictures
        assert all((tmp_path / "pictures" / name).exists() for name in pictures)


def _shown(example: Example) -> list:
    return [example.query, *(one.shown for one in example.candidates)]


def test_examples_show_confident_mistakes_first(tmp_path: Path) -> None:
    def surer_with_number(number: int, text: str) -> float:
        """Wrong on even numbers, the more so the higher they are."""
        right = sees(number, text)
        return -right * number if number % 2 == 0 else right

    found = run(FunctionScorer(surer_with_number), [Pairs(world(30))], tmp_path)
    examples = found.results[0].examples
    wrong = [one for one in examples if not one.right]
    assert [one.right for one in examples] == [False] * len(wrong) + [True] * (len(examples) - len(wrong))
    assert wrong[0].key == "s28/negation/1"  # its false text scores 56, the true one -28
    gaps = [one.candidates[0].score - next(two.score for two in one.candidates if two.true) for one in wrong]
    assert gaps == sorted(gaps, reverse=True)
    assert 0 < len(examples) - len(wrong) <= RIGHT + COMMON
    assert all(sum(two.true for two in one.candidates) == 1 for one in examples)
    assert Image(tmp_path / "pictures" / examples[0].query.picture).size == (2, 2)


def test_retrieval_examples_always_show_a_right_candidate(tmp_path: Path) -> None:
    examples = run(HashEmbedder(), [Retrieval(world(40))], tmp_path).results[0].examples
    assert {one.group for one in examples} == {"image to text", "text to image"}
    for one in examples:
        scores = [candidate.score for candidate in one.candidates]
        assert scores == sorted(scores, reverse=True)
        assert any(candidate.true for candidate in one.candidates)
        assert one.right == one.candidates[0].true


def test_quick_scores_are_the_evaluations_values(tmp_path: Path) -> None:
    tasks, model = all_tasks(), HashEmbedder()
    quick = quick_scores(model, tasks, by_kind=True)
    full = run(HashEmbedder(), tasks, tmp_path)
    expected = {
        f"{result.name}: {one.name}" + (f" ({one.group})" if one.group else ""): pytest.approx(one.value)
        for result in full.results
        for one in result.scores
    }
    assert quick == expected
    assert set(quick_scores(model, tasks)) == {name for name in expected if "(" not in name}


def test_two_runs_are_compared_item_by_item(tmp_path: Path) -> None:
    tasks = [Pairs(world(40)), Retrieval(world(40))]
    run(FunctionScorer(sees), tasks, tmp_path / "oracle")
    run(HashEmbedder(), tasks, tmp_path / "hash")
    oracle, hashed = tmp_path / "oracle", tmp_path / "hash"

    def between(task: str, *folders: Path) -> list[Difference]:
        ours, theirs = (read(answers_file(folder, task))[0] for folder in folders)
        return differences(ours, theirs)

    (accuracy,) = between("pairs", oracle, hashed)
    assert (accuracy.losses, accuracy.items) == (0, 80)
    assert accuracy.value == accuracy.wins / 80
    assert accuracy.p == pytest.approx(2 * 0.5**accuracy.wins)
    assert len(between("retrieval", oracle, hashed)) == 6
    run(HashEmbedder(), [Pairs(world(30))], tmp_path / "fewer")
    with pytest.raises(DataError, match="20 items were asked of one model only"):
        between("pairs", oracle, tmp_path / "fewer")


@pytest.mark.parametrize("tasks", ["pairs", [Pairs], Pairs(world(3))])
def test_what_is_no_list_of_tasks_is_refused(tasks: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="expected a list of tasks"):
        evaluate(HashEmbedder(), tasks, tmp_path, progress=False)


def test_an_evaluation_needs_a_task(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no task to evaluate"):
        evaluate(HashEmbedder(), [], tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_results_of_an_older_version_are_told_by_their_former_name(tmp_path: Path) -> None:
    run(HashEmbedder(), [Pairs(world(3))], tmp_path)
    file = tmp_path / "results.json"
    file.write_text(file.read_text().replace('"requests"', '"asked"'))
    with pytest.raises(RecipeError, match=r"asked: there is no such key any more; it is called 'requests' now"):
        Evaluation.load(tmp_path)


def test_a_real_model_is_described_and_left_in_training(tmp_path: Path) -> None:
    model, tasks = tiny_clip().train(), [Retrieval(Patches(24)), Classification(Patches(24))]
    found = run(model, tasks, tmp_path)
    assert model.training
    assert found.model["family"] == "clip"
    assert found.model["parameters"] == str(sum(one.numel() for one in model.parameters()))
    again = run(tiny_clip(), tasks, tmp_path)
    assert unseconded(again) == unseconded(found)
    other = run(tiny_clip(seed=1), tasks, tmp_path)
    assert other.model["fingerprint"] != found.model["fingerprint"]
    assert [one.protocol for one in other.results] == [one.protocol for one in found.results]
    tiny_processor = tiny_clip()
    image = tiny_processor.processor.image
    assert isinstance(image, ImageTransform)
    tiny_processor.processor.image = replace(image, resize="squash")
    assert run(tiny_processor, tasks, tmp_path).results[0].protocol != found.results[0].protocol
    assert sum(quick_scores(model, tasks).values()) == pytest.approx(
        sum(one.value for result in found.results for one in result.scores if not one.group)
    )


def test_number_of_tells_pictures_apart() -> None:
    assert [number_of(picture(at)) for at in (0, 5, 300)] == [0, 5, 300]
