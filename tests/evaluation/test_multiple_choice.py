"""Options with letters: shuffled alike for all, circular as MMBench has it, answered by scores or by words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chiasm.data.sample import Question, Sample
from chiasm.errors import RecipeError
from chiasm.evaluation.answers import LETTERS
from chiasm.evaluation.request import Response, ScoreOrGenerate
from chiasm.evaluation.request_runner import Askable
from chiasm.evaluation.run import evaluate
from chiasm.evaluation.tasks.multiple_choice import MultipleChoice
from chiasm.evaluation.tasks.probes import Probes
from tests.evaluation.fakes import FunctionScorer, HashEmbedder, Listed, picture, world
from tests.evaluation.test_existence import Says

SIZES = (2, 3, 4)


def quiz(count: int = 30) -> Listed:
    samples = []
    for at in range(count):
        choices = tuple(f"thing {at} {one}" for one in range(SIZES[at % 3]))
        samples.append(Sample(f"q{at}", (picture(at),), questions=(Question("which?", choices[at % 2], "k", choices),)))
    return Listed(tuple(samples))


def eithers(task: MultipleChoice) -> list[ScoreOrGenerate]:
    return [one for one in task.requests if isinstance(one, ScoreOrGenerate)]


def right_letter(one: ScoreOrGenerate) -> str:
    return LETTERS[one.true[0]]


def test_options_are_shuffled_by_the_question_alone() -> None:
    first, second = eithers(MultipleChoice(quiz())), eithers(MultipleChoice(quiz(), limit=15))
    orders = {one.key: one.choices for one in first}
    assert all(orders[one.key] == one.choices for one in second)
    given = {one.key: one.choices for one in eithers(MultipleChoice(quiz(), order="given"))}
    assert all(sorted(orders[key]) == sorted(given[key]) for key in orders)
    assert 0 < sum(orders[key] != given[key] for key in orders) < len(orders)
    one = first[2]
    told = one.words.sample.texts[-1].text.splitlines()
    assert told[1 : 1 + len(one.choices)] == [f"{a}. {b}" for a, b in zip(LETTERS, one.choices, strict=False)]
    assert one.texts[one.true[0]] == (f"which? {quiz()[2].questions[0].answer}",)


def test_a_letter_is_right_or_wrong_wherever_the_option_went() -> None:
    task = MultipleChoice(quiz())
    for shown in ("{}", "({})", "{}."):
        (metric,) = task.measure(task.requests, [shown.format(right_letter(one)) for one in eithers(task)]).metrics
        assert metric.credit_I.tolist() == [1] * 30
    np.testing.assert_allclose(metric.chance_I, [1 / SIZES[at % 3] for at in range(30)])
    words: list[Response] = [f"The answer is {right_letter(one)}" for one in eithers(task)]
    (metric,) = task.measure(task.requests, words).metrics
    assert metric.credit_I.sum() == 0
    assert metric.lenient is not None
    assert metric.lenient.credit_I.tolist() == [1] * 30


def test_circular_items_are_right_only_under_every_rotation() -> None:
    task = MultipleChoice(quiz(6), order="circular", form="words")
    asked = eithers(task)
    assert len(asked) == 2 * sum(SIZES)
    by_question: dict[str, list[ScoreOrGenerate]] = {}
    for one in asked:
        by_question.setdefault(one.key.rpartition("@")[0], []).append(one)
    for turns in by_question.values():
        assert sorted(one.true[0] for one in turns) == list(range(len(turns)))  # the right one has each letter once
    answers: list[Response] = [right_letter(one) for one in asked]
    circular, single = task.measure(task.requests, answers).metrics
    assert circular.credit_I.tolist() == [1] * 6
    np.testing.assert_allclose(circular.chance_I, [one ** -float(one) for one in SIZES * 2])
    wordy: list[Response] = [f"The answer is {right_letter(one)}." for one in asked]
    wordy[0] = "no idea"
    told = task.measure(task.requests, wordy).metrics[0]
    assert told.lenient is not None
    assert (told.credit_I.sum(), told.lenient.credit_I.tolist()) == (0, [0, 1, 1, 1, 1, 1])
    answers[0] = "no idea"
    circular, single = task.measure(task.requests, answers).metrics
    assert (circular.credit_I.sum(), single.credit_I.sum()) == (5, len(asked) - 1)
    assert circular.items.unparsed_I is not None
    assert circular.items.unparsed_I.tolist() == [True, *[False] * 5]
    always = task.measure(task.requests, ["A"] * len(asked))
    assert always.metrics[0].credit_I.sum() == 0
    assert always.facts == {"share of letter A": 1.0}
    with pytest.raises(RecipeError, match="say form: words"):
        MultipleChoice(quiz(6), order="circular")


def test_models_of_both_sorts_share_a_row(tmp_path: Path) -> None:
    def sees(number: int, text: str) -> float:
        return float(text == f"which? {quiz()[number].questions[0].answer}") if number >= 0 else 0.0

    asked = {one.words.sample.texts[-1].text: right_letter(one) for one in eithers(MultipleChoice(quiz()))}
    models: tuple[Askable, ...] = (FunctionScorer(sees), Says(lambda text: asked[text]), HashEmbedder())
    found = [
        evaluate(model, [MultipleChoice(quiz())], tmp_path / str(at), progress=False).results[0]
        for at, model in enumerate(models)
    ]
    assert [one.headline.value for one in found[:2]] == [1, 1]
    assert len({(one.requests, one.headline.chance, one.headline.items) for one in found}) == 1
    assert [one.headline.lenient is None for one in found] == [True, False, True]
    assert found[2].calibration is not None
    assert found[1].calibration is None
    assert found[0].headline.baselines["blind"] == pytest.approx(found[0].headline.chance)
    assert set(found[1].headline.baselines) == {"constant", "blind", "shuffled", "always A"}


def test_probes_ask_a_model_that_generates_in_words(tmp_path: Path) -> None:
    data = world(20)
    told: dict[int, list[str]] = {}

    def reply(text: str) -> str:
        told[len(told)] = text.splitlines()
        return "red"

    (result,) = evaluate(Says(reply), [Probes(data)], tmp_path, progress=False).results
    assert told[0] == ["which?", "Answer with one of these and nothing else: red, green."]
    share = np.mean([one.meta["answer"] == "red" for one in data])
    assert result.headline.value == pytest.approx(share)
    assert result.examples[0].reply == "red"
    by = Probes(data, by="label").requests
    assert {one.kind for one in by if isinstance(one, ScoreOrGenerate)} == {
        f"{name} label" for name in ("red", "green", "blue", "white", "black")
    }
