"""Words in another order: the four ways of ARO, and that a tie wins nothing though the official script gives it all."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.data.sample import Sample
from chiasm.errors import DataError
from chiasm.evaluation.perturbations import (
    all_but_nouns_and_adjectives,
    nouns_and_adjectives,
    trigrams,
    within_trigrams,
    words_of,
)
from chiasm.evaluation.request import ScoreRequest
from chiasm.evaluation.tasks.order import WordOrder
from chiasm.evaluation.tasks.pairs import Pairs
from tests.evaluation.fakes import Listed, picture, world

WORDS = ["the", "small", "dog", "chases", "a", "black", "cat", "over", "the", "green", "grass"]
TAGS = ["DT", "JJ", "NN", "VBZ", "DT", "JJ", "NN", "IN", "DT", "JJ", "NN"]


@given(st.integers(0, 2**32))
def test_each_way_moves_what_it_says(seed: int) -> None:
    nouns, adjectives = ([at for at, tag in enumerate(TAGS) if tag == one] for one in ("NN", "JJ"))
    found = nouns_and_adjectives(WORDS, TAGS, np.random.default_rng(seed))
    for places in (nouns, adjectives):
        assert Counter(found[at] for at in places) == Counter(WORDS[at] for at in places)
    assert all(found[at] == WORDS[at] for at in range(len(WORDS)) if at not in nouns + adjectives)
    found = all_but_nouns_and_adjectives(WORDS, TAGS, np.random.default_rng(seed))
    assert all(found[at] == WORDS[at] for at in nouns + adjectives)
    assert Counter(found) == Counter(WORDS)
    groups = [WORDS[at : at + 3] for at in range(0, len(WORDS), 3)]
    found = within_trigrams(WORDS, np.random.default_rng(seed))
    assert all(Counter(found[3 * at : 3 * at + 3]) == Counter(group) for at, group in enumerate(groups))
    found = trigrams(WORDS, np.random.default_rng(seed))
    joined = " ".join(found)
    assert all(" ".join(group) in joined for group in groups)
    assert Counter(found) == Counter(WORDS)


def test_words_are_bare_and_at_most_thirty() -> None:
    assert words_of("A dog, (brown). Runs!") == ["a", "dog", "brown", "runs"]
    assert len(words_of("word " * 50)) == 30


def captioned(*captions: str) -> Listed:
    return Listed(tuple(Sample(f"c{at}", (picture(at),), (one,)) for at, one in enumerate(captions)))


def test_reorderings_differ_from_the_caption_and_from_each_other(tmp_path: Path) -> None:
    caption = "The small dog chases a black cat over the green grass."
    file = tmp_path / "tags.jsonl"
    row = {"caption": caption, "words": [*caption.rstrip(".").split(), "."], "tags": [*TAGS, "."]}
    file.write_text(json.dumps(row) + "\n")
    data = captioned(caption)
    for task, count in ((WordOrder(data), 2), (WordOrder(data, tags=file), 4)):
        (question,) = task.requests
        assert isinstance(question, ScoreRequest)
        texts = [text for (text,) in question.texts]
        assert texts[0] == " ".join(WORDS)
        assert len(set(texts)) == len(texts) == count + 1
        assert all(Counter(text.split()) == Counter(WORDS) for text in texts)
        assert [one.texts for one in type(task)(data, tags=task.tags).requests if isinstance(one, ScoreRequest)] == [
            question.texts
        ]
    with pytest.raises(DataError, match="has no tags for the caption 'other'"):
        _ = WordOrder(captioned("other"), tags=file).requests
    file.write_text('{"caption": "a", "words": ["a"], "tags": []}\n')
    with pytest.raises(DataError, match="line 1 needs a caption, and as many words as tags"):
        _ = WordOrder(data, tags=file).requests
    assert len(WordOrder(captioned("dog", caption)).requests) == 1  # one word has no other order


def test_a_constant_scorer_gets_everything_officially_and_chance_here() -> None:
    """The official script: preds = argmax(scores), right if 0, where the true caption stands first."""
    task = WordOrder(captioned(*("the small dog chases a black cat",) * 3))
    scores = [np.zeros((1, 3), np.float32) for _ in task.requests]
    assert np.mean([row[0].argmax() == 0 for row in scores]) == 1.0
    measured = task.measure(task.requests, scores)
    assert measured.metrics[0].credit_I.tolist() == pytest.approx([1 / 3] * 3)
    assert measured.facts == {
        "accuracy if ties were won, as officially, %": 100.0,
        "accuracy if ties were lost, %": 0.0,
    }
    scores = [np.random.default_rng(at).normal(size=(1, 3)).astype(np.float32) for at in range(3)]
    official = 100 * np.mean([row[0].argmax() == 0 for row in scores])
    assert set(task.measure(task.requests, scores).facts.values()) == {official}


def test_pairs_tell_what_ties_would_have_made() -> None:
    task = Pairs(world(4))
    facts = task.measure(task.requests, [np.zeros((1, 2), np.float32) for _ in task.requests]).facts
    assert facts == {"accuracy if ties were won, %": 100.0, "accuracy if ties were lost, %": 0.0}
