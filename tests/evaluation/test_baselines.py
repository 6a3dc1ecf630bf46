"""What a score is held against: no picture is left where the model is blind, none stays where they are exchanged."""

from __future__ import annotations

import pytest

from chiasm.data.sample import Sample, Text, Video
from chiasm.evaluation.baselines import blind, shuffled
from chiasm.evaluation.task import Broken, EmbedRequest, GenerateRequest, Request, ScoreOrGenerate, ScoreRequest
from tests.evaluation.fakes import number_of, picture

MATCH = ScoreRequest("m", (picture(1), picture(2)), (("a",), ("b",)), (0,))
ASK = GenerateRequest(
    "a", Sample("s", (picture(3), Text("what?", "user"), Video((picture(4), picture(5)), (0.0, 1.0))))
)
EITHER = ScoreOrGenerate.of(
    ScoreRequest("e", (picture(6),), (("a",), ("b",))), GenerateRequest("w", Sample("s", (picture(6),))), ("a", "b")
)
QUESTIONS: list[Request] = [MATCH, ASK, EITHER, EmbedRequest("v", (picture(7),)), Broken("x", "gone")]


def numbers(question: Request) -> list[int]:
    """Of all pictures that a question shows, in both forms if it has two; -1 for one that is not known."""
    if isinstance(question, Broken):
        return []
    words = question.words.images if isinstance(question, ScoreOrGenerate) else ()
    return [number_of(image) for image in (*question.images, *words)]


def test_a_blind_model_is_shown_nothing_but_grey() -> None:
    found = blind(QUESTIONS)
    assert [numbers(one) for one in found] == [[-1] * len(numbers(one)) for one in QUESTIONS]
    assert len({image.key for one in found if not isinstance(one, Broken) for image in one.images}) == 1
    ask = found[1]
    assert isinstance(ask, GenerateRequest)
    assert [type(part) for part in ask.sample.parts] == [type(part) for part in ASK.sample.parts]
    assert ask.sample.texts == ASK.sample.texts
    assert [one.key for one in found] == [one.key for one in QUESTIONS]


@pytest.mark.parametrize("seed", range(4))
def test_pictures_are_exchanged_one_for_one_and_none_stays(seed: int) -> None:
    found = shuffled(QUESTIONS, seed)
    assert found is not None
    before, behind = ([number for one in several for number in numbers(one)] for several in (QUESTIONS, found))
    other = dict(zip(before, behind, strict=True))
    assert [other[number] for number in before] == behind, "both forms of a question show the same picture"
    assert sorted(other.values()) == sorted(other) == [1, 2, 3, 4, 5, 6, 7]
    assert all(number != new for number, new in other.items())
    assert shuffled([MATCH.with_images(lambda _: picture(1))]) is None
