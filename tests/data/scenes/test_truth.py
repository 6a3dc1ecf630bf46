"""Captions are true of their picture, negatives and wrong answers are false: judged by a checker of its own."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from chiasm.data.scenes.looks import Look
from chiasm.data.scenes.world import Scene, Thing
from chiasm.data.sources.scenes import Scenes
from tests.data.scenes.checker import judge, number_named, phrases, things_named

KINDS_OF_NEGATIVES = {
    "swapped_attributes",
    "swapped_relation",
    "replaced_object",
    "replaced_attribute",
    "wrong_count",
    "wrong_order",
}
KINDS_OF_QUESTIONS = {
    "colour",
    "texture",
    "size",
    "count",
    "position",
    "relation",
    "existence",
    "negation",
    "comparison",
    "reading",
    "order",
}
COMBINATIONS = ("red circle", "striped star", "large heart", "small blue", "dotted green square")
WORLDS: dict[str, tuple[int, dict[str, Any]]] = {
    "uniform": (3000, {}),
    "zipf": (800, {"frequencies": "zipf", "seed": 1}),
    "crowded": (500, {"objects": (6, 6), "seed": 2}),
    "alone": (300, {"objects": (1, 1), "seed": 3}),
    "two shapes, two colours": (
        500,
        {"frequencies": dict.fromkeys(("circle", "ring", "red", "blue"), 1000.0), "seed": 4},
    ),
    "seen": (500, {"held_out": COMBINATIONS, "only": "seen", "seed": 5}),
    "held out": (500, {"held_out": COMBINATIONS, "only": "held_out", "seed": 5}),
}


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_all_that_is_said_is_true_and_all_that_is_denied_is_false(world: str) -> None:
    count, controls = WORLDS[world]
    source = Scenes(count, size=32, **controls)
    wrong: list[tuple[int, str, bool | None]] = []
    kinds: Counter[str] = Counter()
    for i, sample in enumerate(source):
        scene = source.scene(i)
        texts = dict.fromkeys(sample.captions, True)
        for negative in sample.negatives:
            kinds[negative.kind] += 1
            texts |= {negative.true: True, negative.text: False}
        for question in sample.questions:
            kinds[question.kind] += 1
            right = question.choices.index(question.answer)
            texts |= {statement: place == right for place, statement in enumerate(question.statements)}
        wrong += [(i, text, found) for text, truth in texts.items() if (found := judge(text, scene)) is not truth]
    assert not wrong, wrong[:5]
    if count >= 800:
        assert set(kinds) == KINDS_OF_NEGATIVES | KINDS_OF_QUESTIONS
        assert min(kinds.values()) > count / 20, kinds


def test_a_dense_caption_names_every_thing_once() -> None:
    source = Scenes(600, size=32, seed=6)
    for i, sample in enumerate(source):
        scene, told = source.scene(i), sample.captions[0].partition(";")[0]
        assert sum(number_named(phrase) for phrase in phrases(told)) == len(scene.things)
        named = [id(thing) for phrase in phrases(told) for thing in things_named(phrase, scene)]
        assert {id(thing) for thing in scene.things} <= set(named)


def test_captions_are_a_dense_one_and_several_short_ones() -> None:
    samples = list(Scenes(300, size=32, seed=7))
    assert all(3 <= len(sample.captions) <= 9 for sample in samples)
    assert sum(any(" no " in f" {c}" or "without" in c for c in s.captions) for s in samples) > 290
    words = {word for s in samples for c in s.captions for word in c.replace(",", "").replace(";", "").split()}
    assert len(words) < 250  # a small tokenizer holds them all
    assert max(len(caption.split()) for s in samples for caption in s.captions[1:]) < 20


def test_statements_and_questions_belong_together() -> None:
    for sample in Scenes(400, size=32, seed=8):
        for question in sample.questions:
            assert 2 <= len(question.choices) <= 4
            assert len(set(question.choices)) == len(set(question.statements)) == len(question.choices)
            for choice, statement in zip(question.choices, question.statements, strict=True):
                if question.kind == "existence":
                    assert (choice == "no") == ("no" in statement.split())
                elif question.kind != "order":
                    assert choice in statement


def test_a_negative_is_a_small_change_of_a_true_caption() -> None:
    for sample in Scenes(400, size=32, seed=9):
        for negative in sample.negatives:
            assert negative.true in sample.captions
            old, new = negative.true.replace(",", "").split(), negative.text.replace(",", "").split()
            if negative.kind in ("wrong_order", "swapped_attributes"):
                article = {"a", "an"}
                assert Counter(w for w in old if w not in article) == Counter(w for w in new if w not in article)
            else:
                content = [w for w in old if w not in ("a", "an", "is", "are")]
                kept = Counter(content) & Counter(new)
                assert len(content) - kept.total() <= 2, (negative.true, negative.text)


def _thing(x: int, y: int, side: int, **look: str) -> Thing:
    return Thing(Look(**({"size": "small", "texture": "plain"} | look)), (x, y, x + side, y + side))


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("a red circle", True),
        ("a blue circle", False),
        ("a red circle left of a blue star", True),
        ("a red circle right of a blue star", False),
        ("a red circle above a blue star", None),  # a little higher, but mostly on the left
        ("a green cross inside a ring", True),
        ("a green cross outside a ring", False),
        ("a blue star overlapping a ring", False),
        ("a ring bigger than a blue star", True),
        ("a ring smaller than a blue star", False),
        ("two blue stars", False),
        ("one blue star", True),
        ("five shapes", False),
        ("a circle but no triangle", True),
        ("a circle but no star", False),
        ("there is no green cross", False),
        ("from left to right: a red circle, a ring and a blue star", False),
        ("a red circle, a blue star and a ring, from left to right", True),
        ("a red circle, a large ring and a small blue star", True),
        ("this is a circle and a ring; the circle is left of the ring and the star is right of the ring", False),
        ("the star is striped", False),
        ("the circle is in the top left", True),
        ("the circle is in the bottom left", False),
        ("the word 'cat' in black", False),
    ],
)  # fmt: skip
def test_the_checker_can_tell(text: str, verdict: bool | None) -> None:
    scene = Scene(
        things=(
            _thing(2, 4, 12, colour="red", shape="circle"),
            _thing(22, 6, 12, colour="blue", shape="star"),
            _thing(28, 24, 36, size="large", colour="grey", shape="ring"),
            _thing(41, 37, 10, colour="green", shape="cross"),
        ),
        inside=(3, 2),
        overlapping=None,
        background="plain",
        tone="paper",
        shift=(0, 0),
        group=None,
    )
    assert judge(text, scene) is verdict


@pytest.mark.parametrize("text", ["a reddish circle", "a circle beside a star", "two red", "the circle is nice"])
def test_the_checker_does_not_guess(text: str) -> None:
    with pytest.raises(ValueError, match="parse"):
        judge(text, Scenes(1).scene(0))
