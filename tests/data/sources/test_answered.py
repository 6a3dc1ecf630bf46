"""Questions with their answers as chats, and captions between them."""

from __future__ import annotations

from collections import Counter

import pytest

from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.sample import Question, Sample, Text
from chiasm.data.source import Source
from chiasm.data.sources.answered import Answered
from chiasm.data.sources.scenes import Scenes
from chiasm.errors import DataError, RecipeError
from tests.evaluation.fakes import Listed, picture


def _asked(number: int, questions: int, captions: tuple[str, ...] = ()) -> Sample:
    asked = tuple(Question(f"q{number}.{at}?", f"a{number}.{at}", "kind") for at in range(questions))
    return Sample(str(number), (picture(number),), captions, questions=asked)


def _turns(sample: Sample) -> list[tuple[str, str, bool]]:
    return [(text.role, text.text, text.target) for text in sample.texts]


def test_a_question_is_the_users_and_its_answer_is_learned() -> None:
    data = Answered(Listed((_asked(1, 1),)), prompt="Q: {question} A:", reply=" {answer}")
    assert _turns(data[0]) == [("user", "Q: q1.0? A:", False), ("assistant", " a1.0", True)]
    assert data[0].image.key == picture(1).key
    assert data[0].parts[0] is data[0].image
    assert data[0].questions == data.of[0].questions
    assert [one.key for one in data] == ["1"]


def test_rounds_ask_every_question_before_any_again() -> None:
    data = Answered(Listed(tuple(_asked(number, 5) for number in range(4))), turns=2, rounds=5)
    assert len(data) == 20
    assert len({one.key for one in data}) == 20
    met = Counter(text for one in data for role, text, _ in _turns(one) if role == "user")
    assert set(met.values()) == {2}, "5 rounds of 2 questions ask each of 5 twice"
    first = [one.texts[0].text for one in Answered(Listed((_asked(1, 5),)), rounds=5)]
    assert len(set(first)) == 5
    every = Answered(Listed((_asked(1, 5),)), "{question}", turns=None)[0]
    assert sorted(text.text for text in every.texts[::2]) == [f"q1.{at}?" for at in range(5)]


def test_what_is_drawn_follows_from_the_seed_and_the_place() -> None:
    scenes = Scenes(count=40, seed=3)
    drawn = [_turns(one) for one in Answered(scenes)]
    assert drawn == [_turns(one) for one in Answered(scenes)]
    assert drawn != [_turns(one) for one in Answered(scenes, seed=1)]
    for one in Answered(scenes):
        asked, answer = one.texts
        question = next(each for each in one.questions if asked.text.startswith(each.text))
        assert answer.text == question.answer


def test_a_share_of_samples_tells_a_caption() -> None:
    scenes = Scenes(count=300, seed=3)
    told = [one for one in Answered(scenes, captions=0.25) if len(one.texts) == 1]
    assert 50 < len(told) < 100  # 75 are expected, with a deviation of 7.5
    assert all(one.texts[0].text in one.captions and one.texts[0].target for one in told)
    assert len({one.captions.index(one.texts[0].text) for one in told}) > 2
    assert all(len(one.texts) == 1 for one in Answered(scenes, captions=1.0))


def test_in_a_plain_chat_every_answer_is_learned_with_its_end() -> None:
    data: Source = Answered(Listed((_asked(1, 3),)), turns=None, prompt="{question}")
    settings = {"tokenizer": {"learn": 259}, "layout": {"layout": "fixed", "image_tokens": 2}}
    processor = ChatProcessor.from_recipe(settings, ["q"])
    rendered = processor.render(data[0])
    learned = [rendered.text[first:behind] for first, behind in rendered.spans]
    assert learned == [f"{text.text}<|endoftext|>" for text in data[0].texts[1::2]]
    begun = Sample("begun", data[0].parts[:-1])
    assert rendered.text.startswith(processor.render(begun, answer=True).text), "a prompt is the beginning of a sample"


def test_kinds_may_be_left_out() -> None:
    scenes = Scenes(count=60, seed=3)
    kept = Answered(scenes, leave_out=("negation", "colour"))
    kinds = {question.kind for one in kept for question in one.questions}
    assert {question.kind for one in scenes for question in one.questions} - kinds == {"negation", "colour"}
    for one in kept:
        assert any(one.texts[0].text.startswith(question.text) for question in one.questions)


def test_what_is_wrong_is_told() -> None:
    data = Listed((_asked(1, 0, ("a cat",)), _asked(2, 1)))
    with pytest.raises(RecipeError, match=r"answered\.prompt needs \{question\}"):
        Answered(data, prompt="{answer}")
    with pytest.raises(RecipeError, match=r"answered\.reply needs \{answer\}"):
        Answered(data, reply="yes")
    with pytest.raises(RecipeError, match=r"answered\.turns must be at least 1, not 0"):
        Answered(data, turns=0)
    with pytest.raises(RecipeError, match=r"answered\.captions is a share"):
        Answered(data, captions=1.5)
    with pytest.raises(DataError, match="sample '1' has no questions to learn from"):
        Answered(data)[0]
    with pytest.raises(DataError, match="sample '2' has no captions to learn from"):
        Answered(data, captions=1.0)[1]
    with pytest.raises(IndexError):
        Answered(data)[2]
    assert _turns(Answered(data, captions=1.0)[0]) == [("", "a cat", True)]
    assert isinstance(Answered(data)[1].texts[0], Text)
