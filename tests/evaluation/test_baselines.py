"""What a score is held against: no picture is left where the model is blind, none stays where they are exchanged."""

from __future__ import annotations

import pytest

from chiasm.data.sample import Sample, Text, Video
from chiasm.evaluation.baselines import blind, shuffled
from chiasm.evaluation.request import (
    Broken,
    EmbedRequest,
    GenerateImageRequest,
    GenerateRequest,
    Request,
    ScoreOrGenerate,
    ScoreRequest,
)
from tests.evaluation.fakes import number_of, picture

MATCH = ScoreRequest("m", (picture(1), picture(2)), (("a",), ("b",)), (0,))
ASK = GenerateRequest(
    "a", Sample("s", (picture(3), Text("what?", "user"), Video((picture(4), picture(5)), (0.0, 1.0))))
)
EITHER = ScoreOrGenerate.of(
    ScoreRequest("e", (picture(6),), (("a",), ("b",))), GenerateRequest("w", Sample("s", (picture(6),))), ("a", "b")
)
REQUESTS: list[Request] = [MATCH, ASK, EITHER, EmbedRequest("v", (picture(7),)), Broken("x", "gone")]


def numbers(request: Request) -> list[int]:
    """Of all images that a request shows, in both forms if it has two; -1 for one that is not known."""
    words = request.words.all_images if isinstance(request, ScoreOrGenerate) else ()
    return [number_of(image) for image in (*request.all_images, *words)]


def test_a_blind_model_is_shown_nothing_but_grey() -> None:
    found = blind(REQUESTS)
    assert [numbers(one) for one in found] == [[-1] * len(numbers(one)) for one in REQUESTS]
    assert len({image.key for one in found for image in one.all_images}) == 1
    ask = found[1]
    assert isinstance(ask, GenerateRequest)
    assert [type(part) for part in ask.sample.parts] == [type(part) for part in ASK.sample.parts]
    assert ask.sample.texts == ASK.sample.texts
    assert [one.key for one in found] == [one.key for one in REQUESTS]


@pytest.mark.parametrize("seed", range(4))
def test_pictures_are_exchanged_one_for_one_and_none_stays(seed: int) -> None:
    found = shuffled(REQUESTS, seed)
    assert found is not None
    before, behind = ([number for one in several for number in numbers(one)] for several in (REQUESTS, found))
    other = dict(zip(before, behind, strict=True))
    assert [other[number] for number in before] == behind, "both forms of a question show the same picture"
    assert sorted(other.values()) == sorted(other) == [1, 2, 3, 4, 5, 6, 7]
    assert all(number != new for number, new in other.items())
    assert shuffled([MATCH.altered(lambda _: picture(1), str)]) is None


def test_where_an_image_is_to_be_made_the_text_is_taken_away_or_exchanged() -> None:
    texts = ["a red cube", "a blue ball", "two dogs"]
    requests = [
        GenerateImageRequest(text, Sample(text, (picture(at), Text(text, "user")))) for at, text in enumerate(texts)
    ]
    for request in blind(requests):
        assert (request.prompts, numbers(request)) == (("",), [-1])
    found = shuffled(requests)
    assert found is not None
    exchanged = {request.key: request.prompts[0] for request in found}
    assert sorted(exchanged.values()) == sorted(texts)
    assert all(text != other for text, other in exchanged.items())
    assert all(numbers(request) != numbers(other) for request, other in zip(requests, found, strict=True))
    same = [GenerateImageRequest(str(at), Sample("s", (Text("a cube", "user"),))) for at in range(2)]
    assert shuffled(same) is None
