"""Captioning, VQA and reading, asked of generators whose every reply is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from chiasm.config import parse
from chiasm.data.sample import Question, Sample, Text
from chiasm.errors import CapabilityError, CheckpointError, RecipeError
from chiasm.evaluation.answering import AnswerMetric
from chiasm.evaluation.answers import NUMBER, PHRASE, Extraction
from chiasm.evaluation.metrics.bleu import bleu, counts
from chiasm.evaluation.metrics.captions import TokenizedCaptions
from chiasm.evaluation.metrics.cider import cider
from chiasm.evaluation.metrics.ocr import relaxed_accuracy
from chiasm.evaluation.metrics.vqa_accuracy import vqa_accuracy
from chiasm.evaluation.protocol import requests_hash
from chiasm.evaluation.report.page import write_report
from chiasm.evaluation.request import Failed, GenerateRequest
from chiasm.evaluation.request_runner import RunOptions
from chiasm.evaluation.result import Evaluation, Score
from chiasm.evaluation.run import evaluate, quick_scores
from chiasm.evaluation.statistics import figure_of, resampled_means, resampled_sums
from chiasm.evaluation.table import table
from chiasm.evaluation.task import Task
from chiasm.evaluation.tasks.captioning import Captioning
from chiasm.evaluation.tasks.ocr import OCR
from chiasm.evaluation.tasks.vqa import VQA
from chiasm.models.folder import save
from chiasm.weights import load
from tests.evaluation.fakes import HashEmbedder, Listed, number_of, picture, undecodable
from tests.worlds import tiny_clip

THINGS = ("a red cube", "two small dogs", "a man on a horse", "some green apples", "an old blue car")
PLACES = ("on a table", "in the snow", "near a lake", "under a tree")


@dataclass
class Sayer:
    """Says what a function makes of the picture's number, -1 standing for a picture that is not known."""

    says: Callable[[int], str]

    def generate(self, samples: Sequence[Sample], *, max_tokens: int) -> list[Sample]:
        assert all(not sample.captions and not sample.questions for sample in samples), "the references were shown"
        replies = [Text(self.says(number_of(sample.images[0])), target=True) for sample in samples]
        return [replace(one, parts=(*one.parts, reply)) for one, reply in zip(samples, replies, strict=True)]


def captions_of(number: int) -> tuple[str, ...]:
    thing, place = THINGS[number % 5], PLACES[number // 5 % 4]
    return f"{thing} {place}", f"There is {thing}, {place}.", f"{place} is {thing}"


def photos(count: int = 20) -> Listed:
    return Listed(tuple(Sample(f"s{at}", (picture(at),), captions_of(at)) for at in range(count)))


def a_look(number: int) -> str:
    """A right caption for most pictures, nothing for some."""
    return "" if number < 0 else "I can't tell" if number % 7 == 6 else f" {captions_of(number)[1]}\n"


def scores(found: Evaluation) -> dict[str, Score]:
    (result,) = found.results
    return {score.name: score for score in result.scores if not score.group}


def run(task: Task, says: Callable[[int], str], folder: Path) -> dict[str, Score]:
    return scores(evaluate(Sayer(says), [task], folder, progress=False))


def test_captioning_scores_are_the_metrics_of_all_replies(tmp_path: Path) -> None:
    task = Captioning(photos())
    found = run(task, a_look, tmp_path)
    assert list(found) == ["CIDEr", "BLEU-4", "BLEU-3", "BLEU-2", "BLEU-1", "ROUGE-L"]
    replies = [a_look(at).strip() for at in range(20)]
    captions = TokenizedCaptions(replies, [captions_of(at) for at in range(20)])
    assert found["CIDEr"].value == pytest.approx(cider(captions).mean())
    assert found["CIDEr"].value > 1  # no share
    whole = bleu(counts(captions).sum(axis=0))
    assert [found[f"BLEU-{n}"].value for n in (1, 2, 3, 4)] == pytest.approx(whole.tolist())
    assert found["BLEU-4"].value != pytest.approx(bleu(counts(captions))[:, 3].mean(), abs=0.01)  # no mean of items'
    for one in found.values():
        assert one.low <= one.value <= one.high
        assert (one.chance, one.failed, one.items) == (0, 0, 20)
        assert one.baselines["blind"] < one.baselines["constant"] < one.value
        assert one.baselines["shuffled"] < one.value
    lines = (tmp_path / "answers" / "captioning.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert first["answer"] == "There is a red cube, on a table."
    assert {"CIDEr", "sentence BLEU-4", "ROUGE-L"} <= set(first["credit"])
    assert quick_scores(Sayer(a_look), [task])["captioning: BLEU-4"] == pytest.approx(whole[3])


def test_the_interval_of_a_corpus_figure_is_that_of_whole_corpora() -> None:
    """Each resample is scored anew as the corpus that it is."""
    task = Captioning(photos())
    metric = next(one for one in task.measure(task.requests, [a_look(at) for at in range(20)]).metrics if one.corpus)
    assert metric.corpus is not None
    samples = [f"s{at}" for at in range(20)]
    found = metric.corpus.of(resampled_sums(metric.corpus.counts_IS, samples, resamples=5))
    drawn = np.random.default_rng(0).integers(0, 20, (5, 20))
    for value, items in zip(found.tolist(), drawn.tolist(), strict=True):
        again = TokenizedCaptions([a_look(at).strip() for at in items], [captions_of(at) for at in items])
        assert value == pytest.approx(bleu(counts(again).sum(axis=0))[3], abs=1e-12)
    assert figure_of(metric, np.arange(7)) == pytest.approx(
        metric.corpus.of(metric.corpus.counts_IS[:7].sum(0)[None])[0]
    )
    weights = np.random.default_rng(1).random(20)
    sums = resampled_sums(np.stack([weights, np.ones(20)], axis=1), samples, resamples=5)
    np.testing.assert_allclose(resampled_means(weights, samples, resamples=5), sums[:, 0] / 20)


def test_people_and_the_constant_caption_are_told() -> None:
    task = Captioning(photos(), metrics=("CIDEr",))
    facts = task.measure(task.requests, [""] * 20).facts
    others = TokenizedCaptions([captions_of(at)[0] for at in range(20)], [captions_of(at)[1:] for at in range(20)])
    assert facts == {"people's CIDEr, one caption against the others": pytest.approx(cider(others).mean())}
    constant = {task.constant(question) for question in task.requests}
    assert len(constant) == 1
    assert constant <= {caption for at in range(20) for caption in captions_of(at)}
    one_each = Listed(tuple(replace(one, captions=one.captions[:1]) for one in photos()))
    assert not Captioning(one_each).measure(Captioning(one_each).requests, [""] * 20).facts


def test_what_cannot_be_asked_earns_nothing(tmp_path: Path) -> None:
    """A picture that cannot be decoded gets an empty caption; a sample without captions adds nothing to BLEU."""

    class Decoding(Sayer):
        def generate(self, samples: Sequence[Sample], *, max_tokens: int) -> list[Sample]:
            for sample in samples:
                sample.images[0].decode()
            return super().generate(samples, max_tokens=max_tokens)

    samples = list(photos(6).samples)
    samples[2] = replace(samples[2], parts=(undecodable(),))
    samples[4] = replace(samples[4], captions=())
    model = Decoding(lambda number: captions_of(number)[0] if number >= 0 else "")
    found = scores(evaluate(model, [Captioning(Listed(tuple(samples)))], tmp_path, progress=False))
    at = (0, 1, 2, 3, 5)
    captions = TokenizedCaptions(
        ["" if one == 2 else captions_of(one)[0] for one in at], [captions_of(one) for one in at]
    )
    assert found["CIDEr"].value == pytest.approx(cider(captions).sum() / 6)
    assert found["BLEU-1"].value == pytest.approx(bleu(counts(captions).sum(axis=0))[0])
    assert (found["CIDEr"].failed, found["BLEU-1"].failed) == (2, 2)
    lines = [json.loads(line) for line in (tmp_path / "answers" / "captioning.jsonl").read_text().splitlines()]
    earned = {line["key"]: line["credit"]["CIDEr"] for line in lines}
    assert earned == pytest.approx({"s4": 0.0} | {f"s{one}": cider(captions)[place] for place, one in enumerate(at)})


def test_examples_show_pictures_replies_and_references(tmp_path: Path) -> None:
    found = evaluate(Sayer(a_look), [Captioning(photos()), questions_task()], tmp_path / "evaluation", progress=False)
    captioning, vqa = found.results
    worst = captioning.examples[0]
    assert (worst.reply, worst.right, worst.earned) == ("I can't tell", False, "CIDEr 0.0")
    assert worst.references == captions_of(int(worst.key[1:]))
    assert worst.query.text == "Describe the image in one sentence."
    assert (tmp_path / "evaluation" / "pictures" / worst.query.picture).is_file()
    assert any(one.right for one in captioning.examples)
    assert {one.group for one in vqa.examples} == {"number", "yes/no"}
    page = write_report([tmp_path], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "reply: “I can&#39;t tell”" in page
    assert f"<li>{worst.references[0]}</li>" in page
    assert "CIDEr 0.0" in page


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"metrics": ["SPICE"]}, "SPICE, which is left out because its program downloads"),
        ({"metrics": ["CIDER"]}, r"no metric 'CIDER'; did you mean 'CIDEr'\?"),
        ({"metrics": []}, "has no metrics"),
        ({"metrics": ["CLIPScore"]}, "needs a `judge`"),
        ({"judge": "somewhere"}, "has a judge but asks for none of CLIPScore"),
        ({"max_tokens": 0}, "max_tokens of task 'captioning' must be at least 1"),
    ],
)
def test_captioning_refuses_what_it_cannot_do(entries: dict[str, object], message: str) -> None:
    scenes = {"source": "scenes", "count": 2}
    with pytest.raises(RecipeError, match=message):
        parse(Task, {"task": "captioning", "data": scenes, **entries})  # type: ignore[type-abstract]  # a choice is built


def test_a_judge_is_any_model_that_embeds(tmp_path: Path) -> None:
    model = tiny_clip()
    save(model, tmp_path / "judge")
    data = photos(6)
    task = Captioning(data, metrics=("CLIPScore", "RefCLIPScore"), judge=tmp_path / "judge")
    with pytest.raises(CapabilityError, match=r"nothing opens its folder; give `evaluate` RunOptions\(load="):
        run(task, a_look, tmp_path / "run")
    opened = RunOptions(load=load)
    found = scores(evaluate(Sayer(a_look), [task], tmp_path / "run", options=opened, progress=False))
    image = np.asarray(model.embed_images([picture(at) for at in range(6)]), np.float64)
    said = np.asarray(model.embed_texts([f"A photo depicts {a_look(at).strip()}" for at in range(6)]), np.float64)
    expected = 2.5 * np.maximum((image * said).sum(axis=1), 0)
    assert found["CLIPScore"].value == pytest.approx(expected.mean(), abs=1e-5)
    near = []
    for at in range(6):
        referred = np.asarray(model.embed_texts([f"A photo depicts {one}" for one in captions_of(at)]), np.float64)
        near.append(max(0.0, float((referred @ said[at]).max())))
    both = 2 * expected * near / np.maximum(expected + near, 1e-12)
    assert found["RefCLIPScore"].value == pytest.approx(both.mean(), abs=1e-5)

    # The protocol holds the judge's weights, not where they lie.
    save(model, tmp_path / "moved")
    save(tiny_clip(seed=5), tmp_path / "other")
    moved, other = replace(task, judge=tmp_path / "moved"), replace(task, judge=tmp_path / "other")
    for one in (moved, other):
        one.use_loader(load)
    assert (
        requests_hash(task, task.requests)
        == requests_hash(moved, moved.requests)
        != requests_hash(other, other.requests)
    )

    with pytest.raises(CheckpointError, match="there is no folder"):
        evaluate(Sayer(a_look), [replace(task, judge=tmp_path / "absent")], tmp_path / "none", options=opened)
    blind: Any = RunOptions(load=lambda folder: _NoEmbedder())  # type: ignore[arg-type, return-value]  # no embedder
    with pytest.raises(CapabilityError, match=r"the judge in .* is a _NoEmbedder, which does not embed"):
        evaluate(Sayer(a_look), [replace(task, judge=tmp_path / "moved")], tmp_path / "none", options=blind)
    with pytest.raises(CapabilityError, match="needs a model that can generate"):
        evaluate(HashEmbedder(), [Captioning(data)], tmp_path / "none", progress=False)


class _NoEmbedder:
    def eval(self) -> _NoEmbedder:
        return self


def questions_task() -> VQA:
    samples = tuple(
        Sample(
            f"s{at}",
            (picture(at),),
            questions=(
                Question("How many?", str(at), "number", answers=(str(at),) * 8 + ("many",) * 2),
                Question("Is it red?", "yes", "yes/no", ("yes", "no"), answers=("yes",) * 7 + ("no",) * 3),
            ),
        )
        for at in range(8)
    )
    return VQA(Listed(samples))


def test_vqa_is_asked_with_the_prompt_and_measured_by_people(tmp_path: Path) -> None:
    task = questions_task()
    first = task.requests[0]
    assert isinstance(first, GenerateRequest)
    expected = "How many?\nAnswer the question using a single word or phrase."
    assert [part.text for part in first.sample.texts] == [expected]
    assert (first.key, first.kind, first.max_tokens, len(first.references)) == ("s0/0", "number", 10, 10)
    (result,) = evaluate(Sayer(lambda number: "No."), [task], tmp_path, progress=False).results
    by_kind = {(one.name, one.group): one for one in result.scores}
    assert by_kind["VQA accuracy", "yes/no"].value == pytest.approx(0.9)  # three of ten said so
    assert by_kind["VQA accuracy", "number"].value == 0
    assert by_kind["VQA accuracy", ""].value == pytest.approx(0.45)
    assert by_kind["exact match with any", ""].value == 0  # the dot
    assert by_kind["VQA accuracy", ""].baselines["constant"] == pytest.approx((1 + 0.6) / 2)  # "many" is in all, twice
    assert result.facts == {"answers a question": 10}
    assert VQA(task.data, name="again").measure(task.requests, [""] * 16).metrics[0].items.samples[:3] == (
        "s0",
        "s0",
        "s1",
    )
    with pytest.raises(RecipeError, match=r"needs \{question\} in the question's place"):
        replace(task, prompt="What?")


def test_reading_takes_the_best_of_several_answers(tmp_path: Path) -> None:
    samples = tuple(
        Sample(
            f"s{at}",
            (picture(at),),
            questions=(Question("Total?", f"{at}.30", "", answers=(f"{at}.30", f"RM {at}.30")),),
        )
        for at in range(4)
    )
    task = OCR(Listed(samples), metrics=("relaxed accuracy", "ANLS", "exact match"))
    said = {0: "0.30", 1: "rm  1.30", 2: "2.35", 3: "I cannot read it", -1: ""}
    found = run(task, said.__getitem__, tmp_path)
    assert found["relaxed accuracy"].value == pytest.approx(2 / 4)  # the second is no number
    assert found["ANLS"].value == pytest.approx((1 + 1 + 3 / 4) / 4)
    assert found["exact match"].value == pytest.approx(2 / 4)
    with pytest.raises(RecipeError, match="has no metrics"):
        replace(task, metrics=())


def test_both_readings_stand_in_results_table_and_report(tmp_path: Path) -> None:
    """Strictly, the headline is the metric of the replies as they stand; only an empty one is unparsed."""
    task = questions_task()
    said = {
        0: "The answer is 0.",
        1: "1",
        2: "",
        3: '"3"',
        4: "4\nfour cars",
        5: "Answer:",
        6: "I see 6",
        7: "Answer: 7",
    }
    evaluation = evaluate(Sayer(lambda number: said.get(number, "")), [task], tmp_path / "evaluation", progress=False)
    by_kind = {(one.name, one.group): one for one in evaluation.results[0].scores}
    accuracy, exact = by_kind["VQA accuracy", "number"], by_kind["exact match with any", "number"]
    asked = [one for one in task.requests if isinstance(one, GenerateRequest) and one.kind == "number"]
    assert accuracy.value == pytest.approx(np.mean([vqa_accuracy(said[at], asked[at].references) for at in range(8)]))
    assert (accuracy.value, exact.value) == (2 / 8, 1 / 8)  # "1" both; '"3"' by the normalisation alone
    assert (accuracy.unparsed, exact.unparsed, accuracy.failed) == (1 / 8, 1 / 8, 0)
    for one in (accuracy, exact):
        assert one.lenient is not None
        assert one.lenient.low <= one.lenient.value <= one.lenient.high
        assert (one.lenient.value, one.lenient.unparsed) == (5 / 8, 2 / 8)
    whole = by_kind["VQA accuracy", ""]
    assert whole.unparsed == 1 / 8
    assert Evaluation.load(tmp_path / "evaluation") == evaluation
    lines = [json.loads(line) for line in (tmp_path / "evaluation" / "answers" / "vqa.jsonl").read_text().splitlines()]
    assert len(lines) == 16
    assert {line["key"] for line in lines if line.get("unparsed")} == {"s2/0", "s2/1"}
    console = Console(width=200, record=True, file=StringIO())
    console.print(table([evaluation]))
    assert "12.5% unparsed; leniently 62.5" in console.export_text()
    page = write_report([tmp_path], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "12.5% unparsed" in page
    assert "leniently read 31.2" in page  # of numbers and of yes or no


def test_relaxed_accuracy_takes_the_only_number_where_a_number_is_right(tmp_path: Path) -> None:
    right = ("1024", "15%", "20", "2015", "red", "8")
    said = {
        0: "It is about 1,030.",
        1: "15.5 percent",
        2: "20 of 50",
        3: "2015",
        4: "Answer: Red.",
        5: "I can't tell",
        -1: "",
    }
    samples = tuple(
        Sample(f"s{at}", (picture(at),), questions=(Question("How many?", one, "", answers=(one,)),))
        for at, one in enumerate(right)
    )
    found = run(OCR(Listed(samples), metrics=("relaxed accuracy", "ANLS")), said.__getitem__, tmp_path)
    relaxed, like = found["relaxed accuracy"], found["ANLS"]
    assert (relaxed.value, relaxed.unparsed, like.unparsed) == pytest.approx((1 / 6, 0, 0))
    assert relaxed.lenient is not None
    assert like.lenient is not None
    assert relaxed.lenient.value == pytest.approx(4 / 6)
    assert relaxed.lenient.unparsed == pytest.approx(2 / 6)  # two numbers, and none
    assert (like.lenient.value, like.lenient.unparsed) == pytest.approx((2 / 6, 0))  # words are read as words


@pytest.mark.parametrize(
    ("said", "numeric", "rule"),
    [
        (("5", "5%"), True, NUMBER),
        (("5", "five cars"), True, PHRASE),
        (("red",), True, PHRASE),
        (("5",), False, PHRASE),
    ],
)
def test_a_number_is_looked_for_only_where_all_answers_are_numbers(
    said: tuple[str, ...], numeric: bool, rule: Extraction
) -> None:
    asked = GenerateRequest("k", Sample("s", (picture(1),)), references=said)
    assert AnswerMetric("any", relaxed_accuracy, numeric=numeric).rule(asked) is rule


def test_what_was_not_replied_is_failed_and_not_unparsed() -> None:
    task = questions_task()
    none = task.measure(task.requests, [Failed("no")] * 16).metrics[0]
    assert none.lenient is None
    some = task.measure(task.requests, [Failed("no")] * 15 + [" "]).metrics[0]
    assert some.lenient is not None
    for one in (some.items, some.lenient.items):
        assert one.unparsed_I is not None
        assert (one.failed_I.tolist(), one.unparsed_I.tolist()) == ([True] * 15 + [False], [False] * 15 + [True])
    captions = Captioning(photos(), metrics=("ROUGE-L",))
    metric = captions.measure(captions.requests, [""] * 20).metrics[0]
    assert (metric.lenient, metric.items.unparsed_I) == (None, None)  # captions count as they stand
