"""VQA accuracy against the official script, ANLS against its package, CLIPScore against its formula."""

from __future__ import annotations

import importlib.util
import random
import warnings
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.evaluation.metrics.clip_score import clip_score, ref_clip_score
from chiasm.evaluation.metrics.ocr import anls, edits, exact_match, relaxed_accuracy
from chiasm.evaluation.metrics.vqa_accuracy import normalised, vqa_accuracy
from tests import peers

WORDS = r"""
dont couldntve couldn'tve lets she's somebody'd yall'll 'twas none zero one ten eleven a an the A The dog men's U.S.A.
yes, (yes) t-shirt and/or red;blue 1,000 3.5 5. .5 u.s. $5 5% ... ? ! + = _ \ / 12,5 hi?
"""


def official() -> ModuleType:
    """The official vqaEval.py, which LAVIS brings; the package around it is not imported."""
    assert peers.__doc__  # puts the peers' folder on the path
    found = importlib.util.find_spec("lavis")
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs salesforce-lavis: `make test` installs the packages of peers.txt; see its Makefile rule")
    file = Path(next(iter(found.submodule_search_locations))) / "common" / "vqa_tools" / "vqa_eval.py"
    spec = importlib.util.spec_from_file_location("vqa_eval", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # escapes that were never sound
        spec.loader.exec_module(module)
    return module


def said(drawn: random.Random) -> str:
    return "".join(
        drawn.choice(WORDS.split()) + drawn.choice((" ", " ", " ", "", "\n", "\t")) for _ in range(drawn.randint(0, 4))
    )


def test_answers_are_normalised_as_the_official_script_does() -> None:
    script, drawn = official().VQAEval(), random.Random(0)
    for _ in range(5000):
        text = said(drawn)
        plain = text.replace("\n", " ").replace("\t", " ").strip()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            expected = script.processDigitArticle(script.processPunctuation(plain))
        assert normalised(text) == expected, repr(text)


def test_vqa_accuracy_is_the_official_one(capsys: pytest.CaptureFixture[str]) -> None:
    """With answers that are in normal form, as VQA's are; of others the script normalises less than of replies."""
    drawn = random.Random(1)
    few = [normalised(said(drawn)) for _ in range(6)]
    asked = {at: [drawn.choice(few) for _ in range(10)] for at in range(400)}
    replies = {
        at: drawn.choice((drawn.choice(answers), said(drawn), drawn.choice(few).upper()))
        for at, answers in asked.items()
    }

    class Loaded:
        def __init__(self, qa: Mapping[int, Mapping[str, object]]) -> None:
            self.qa = qa

        def getQuesIds(self) -> list[int]:
            return list(self.qa)

    told = {
        at: {
            "answers": [{"answer": one, "answer_id": number} for number, one in enumerate(answers)],
            "question_type": "what",
            "answer_type": "other",
        }
        for at, answers in asked.items()
    }
    script = official().VQAEval(Loaded(told), Loaded({at: {"answer": one} for at, one in replies.items()}), n=9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script.evaluate()
    capsys.readouterr()
    ours = {at: vqa_accuracy(replies[at], answers) for at, answers in asked.items()}
    assert {at: round(100 * one, 9) for at, one in ours.items()} == script.evalQA
    assert len(set(ours.values())) > 3


@pytest.mark.parametrize(("same", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_vqa_accuracy_by_how_many_people_said_the_same(same: int, expected: float) -> None:
    assert vqa_accuracy("The dog.", ["dog"] * same + ["cat"] * (10 - same)) == pytest.approx(expected)


def test_a_single_answer_is_right_or_wrong() -> None:
    assert (vqa_accuracy("two", ["2"]), vqa_accuracy("three", ["2"])) == (1, 0)


def slow_edits(first: str, second: str) -> int:
    row = list(range(len(second) + 1))
    for at, letter in enumerate(first):
        rest = [at + 1]
        for (left, above), other in zip(pairwise(row), second, strict=True):
            rest.append(min(rest[-1] + 1, above + 1, left + (letter != other)))
        row = rest
    return row[-1]


@given(st.text("abc", max_size=12) | st.text("ab", min_size=60, max_size=140), st.text("abd", max_size=90))
def test_edits_are_those_of_the_table(first: str, second: str) -> None:
    assert edits(first, second) == edits(second, first) == slow_edits(first, second)


def test_anls_is_that_of_its_package() -> None:
    assert peers.__doc__
    package = pytest.importorskip("anls", reason="needs anls: `make test` installs the packages of peers.txt")
    drawn = random.Random(2)

    def text() -> str:
        return "".join(drawn.choice("ab c1B") for _ in range(drawn.randint(0, 9)))

    scores = set()
    for _ in range(4000):
        reply, answers = text(), [text() for _ in range(drawn.randint(1, 3))]
        scores.add(anls(reply, answers))
        assert anls(reply, answers) == pytest.approx(package.anls_score(reply, answers), abs=1e-12), (reply, answers)
    assert len(scores) > 10


def test_anls_by_hand() -> None:
    assert anls("Abcd", ["abce"]) == 0.75
    assert anls("ab", ["ax"]) == 0  # half of the letters are wrong: the threshold itself is too far
    assert anls("", [""]) == 1
    assert anls("total  9.30", ["9.30", "Total 9.30"]) == 1


@pytest.mark.parametrize(
    ("reply", "answer", "right"),
    [
        ("105", "100", True),
        ("95.0", "100", True),
        ("105.1", "100", False),
        ("-5", "5", False),
        ("5%", "0.05", True),
        ("5%", "5", False),
        ("0", "0", True),
        ("0.0", "0", False),
        ("Blue ", "blue", True),
        ("dark blue", "blue", False),
        ("nan", "5", False),
    ],
)
def test_relaxed_accuracy(reply: str, answer: str, right: bool) -> None:
    assert relaxed_accuracy(reply, ["something else", answer]) == right


def test_exact_match_counts_neither_case_nor_spaces() -> None:
    assert exact_match(" The  Dog", ["cat", "the dog"]) == 1
    assert exact_match("dog", ["the dog"]) == 0


def test_clip_score_is_its_formula() -> None:
    drawn = np.random.default_rng(0)
    image, candidate, counts = drawn.normal(size=(7, 5)), drawn.normal(size=(7, 5)), np.array([1, 3, 2, 1, 4, 2, 1])
    references = drawn.normal(size=(int(counts.sum()), 5))

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        return float(one @ other / np.sqrt((one @ one) * (other @ other)))

    start = 0
    for at, count in enumerate(counts.tolist()):
        seen = 2.5 * max(cosine(image[at], candidate[at]), 0)
        near = max(0.0, *(cosine(candidate[at], one) for one in references[start : start + count]))
        both = 2 * seen * near / (seen + near) if seen + near else 0
        assert clip_score(image, candidate)[at] == pytest.approx(seen, abs=1e-12)
        assert ref_clip_score(image, candidate, references, counts)[at] == pytest.approx(both, abs=1e-12)
        start += count
    assert 0 in clip_score(image, candidate)
    assert clip_score(np.zeros((1, 5)), candidate[:1]).tolist() == [0]  # a picture that could not be embedded
