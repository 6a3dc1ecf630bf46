"""BLEU, ROUGE-L, CIDEr and METEOR against pycocoevalcap, on what people wrote of COCO's photos and on odd texts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from itertools import chain

import numpy as np
import pytest

from chiasm.errors import DataError, MissingExtra
from chiasm.evaluation.metrics import bleu, meteor
from chiasm.evaluation.metrics.captions import Texts, TokenizedCaptions, medoid
from chiasm.evaluation.metrics.cider import cider
from chiasm.evaluation.metrics.rouge_l import rouge_l
from chiasm.evaluation.metrics.tokens import tokenize
from tests.shared_data import shared_data

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="pycocoevalcap's tokenizer is a Java program")

Items = list[tuple[str, list[str]]]  # candidate, references

ODD: Items = [
    ("", ["a cat", "a dog on a mat"]),
    (".", ["a cat.", "two cats"]),
    ("cat", ["cat", "a cat"]),
    ("the the the the the the", ["the cat is on the mat", "there is a cat on the mat"]),
    ("a man riding a wave on top of a surfboard", ["a man riding a wave on top of a surfboard"]),
    ("At the corner of 22 3/4 St. and 8th Ave.", ["a sign at 22 3/4 street", "the corner of 22 3/4 st. and 8th ave."]),
    ("It isn't a dog's bed; it's a \"cat's\" bed - don't you see?!", ["the cats' bed isn't the dog's", "a bed (blue)"]),
    ("on mat the sat cat a", ["a cat sat on the mat", "mat a on sat cat the", "cat"]),
    ("A T.V. shows the U.S. flag at 5:54pm on a 3-year-old's TV/stereo.", ["a t.v. with a flag", "the tv at 5:54 pm"]),
]

LONG = ("one two three four five " * 30, ["five one two three four " * 20, "one " * 40, "six"])


def photos() -> Items:
    """Of each photo in COCO's val2017 the first caption as candidate, and the others."""
    content = json.loads((shared_data("text") / "coco_captions_val2017.json").read_text(encoding="utf-8"))
    captions: dict[int, list[str]] = {}
    for row in content["annotations"]:
        captions.setdefault(row["image_id"], []).append(row["caption"])
    return [(first, others) for first, *others in captions.values()]


def theirs(texts: Sequence[Sequence[str]]) -> list[list[str]]:
    """Each group of texts as pycocoevalcap's tokenizer has it."""
    tokenizer = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer").PTBTokenizer()
    asked = {at: [{"caption": text} for text in several] for at, several in enumerate(texts)}
    found = tokenizer.tokenize(asked)
    return [found[at] for at in range(len(texts))]


def pairs(items: Items) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """References and candidates as pycocoevalcap wants them."""
    references, candidates = theirs([others for _, others in items]), theirs([[first] for first, _ in items])
    return dict(enumerate(references)), dict(enumerate(candidates))


def captions(items: Items) -> TokenizedCaptions:
    return TokenizedCaptions([first for first, _ in items], [others for _, others in items])


@pytest.mark.slow
@needs_java
def test_tokens_are_those_of_the_stanford_tokenizer_on_all_captions_of_val2017() -> None:
    content = json.loads((shared_data("text") / "coco_captions_val2017.json").read_text(encoding="utf-8"))
    texts = [row["caption"] for row in content["annotations"]]
    assert len(texts) == 25014
    expected = [line for (line,) in theirs([[text] for text in texts])]
    assert Texts(texts).joined() == expected
    some = np.random.default_rng(0).permutation(len(texts))[:500].tolist()
    assert [" ".join(tokenize(texts[at])) for at in some] == [expected[at] for at in some]


@needs_java
def test_tokens_of_a_text_do_not_depend_on_the_next_one_as_they_do_there() -> None:
    """Stanford's tokenizer reads all captions as one text: whether the last dot ends a sentence, the next word says."""
    initial = "the sign of 12th Ave S."
    (first,), _ = theirs([[initial], ["A dog"]])
    (other,), _ = theirs([[initial], ["Two dogs"]])
    assert (first, other) == ("the sign of 12th ave s", "the sign of 12th ave s.")
    assert Texts([initial, "A dog"]).joined()[0] == Texts([initial, "Two dogs"]).joined()[0] == first


@needs_java
def test_tokens_of_odd_texts() -> None:
    texts = [
        "He'll say \u201cthey\u2019re 90\u00b0 apart\u201d \u2014 I\u2019d\u2026 maybe wouldn't've (e.g. in D.C.)",
        "No. 5 of 1,000 [sic] costs $5.00, i.e. 50% off; {well} A&P's #1 & AT&T, rock 'n' roll in the '80s, the 1990's",
        "gonna cannot wanna 'tis y'all O'Brien's jack-o-lantern T-shirt x-ray 20-30 and/or 1/2 hi!!! what?! ... hi...",
        "Mr. Smith of St. Louis vs. Dr. Who, Jr. met J. R. Ewing. This is it. A man. b. The cat a.m. p.m. street.A bus",
        "caf\u00e9 na\u00efve \u65e5\u672c \u00bd cup, 2\u00d74 \u2013 5\u20136; a\tb\u00a0c",
        "http://a.com/b?c=d www.foo.com foo@bar.com &amp; <br> x",
        "emoji \U0001f600 here, 10:30 a.m. 3D 1st 5ft. mp3's C++ C# a_b --- - -- ---- 5'10\" tall, Ph.D.",
    ]
    expected = [line for (line,) in theirs([[text] for text in texts])]
    assert Texts(texts).joined() == expected


@needs_java
@pytest.mark.parametrize("source", ["photos", "odd", "long"])
def test_bleu_rouge_l_and_cider_are_those_of_pycocoevalcap(source: str) -> None:
    items = photos()[::8] if source == "photos" else ODD if source == "odd" else [LONG, *ODD]
    references, candidates = pairs(items)
    ours = captions(items)
    counts = bleu.counts(ours)
    theirs_bleu = pytest.importorskip("pycocoevalcap.bleu.bleu").Bleu(4)
    whole, single = theirs_bleu.compute_score(references, candidates, verbose=0)
    np.testing.assert_allclose(bleu.bleu(counts.sum(axis=0)), whole, rtol=0, atol=1e-12)
    np.testing.assert_allclose(bleu.bleu(counts).T, single, rtol=0, atol=1e-12)
    _, single = pytest.importorskip("pycocoevalcap.rouge.rouge").Rouge().compute_score(references, candidates)
    np.testing.assert_allclose(rouge_l(ours), single, rtol=0, atol=1e-12)
    _, single = pytest.importorskip("pycocoevalcap.cider.cider").Cider().compute_score(references, candidates)
    np.testing.assert_allclose(cider(ours), single, rtol=0, atol=1e-9)
    assert 0.1 < cider(ours).mean() < 5


# What METEOR 1.5 answers to SCORE and EVAL for the candidates of ODD[2:] and their references.
METEOR = {
    1.0: (1, 1, 0, 0, 1, 1, *(0,) * 15, 1, 1),
    0.08510638297872342: (6, 6, 6, 4, 0, 0, 2, 2, *(0,) * 12, 2, 2, 2),
    0.9999999999999999: (10, 10, 5, 5, 5, 5, 5, 5, *(0,) * 13, 10, 10),
    0.6315978350335397: (13, 12, 5, 4, 8, 8, 4, 4, *(0,) * 12, 1, 12, 12),
    0.2970304230192566: (24, 10, 15, 6, 3, 3, 4, 4, *(0,) * 12, 3, 7, 7),
    0.42148449759842366: (6, 6, 3, 3, 3, 3, 3, 3, *(0,) * 12, 5, 6, 6),
    0.3796365169950261: (21, 7, 9, 3, 4, 4, 3, 3, *(0,) * 12, 3, 7, 7),
}
METEOR_OF_ALL = 0.42957197839512534


def test_meteor_of_its_programs_counts() -> None:
    counts = np.array(list(METEOR.values()), float)
    np.testing.assert_allclose(meteor.meteor(counts), list(METEOR), rtol=0, atol=1e-12)
    assert float(meteor.meteor(counts.sum(axis=0))) == pytest.approx(METEOR_OF_ALL, abs=1e-12)


@pytest.mark.slow
@needs_java
def test_meteor_asks_its_program() -> None:
    pytest.importorskip("pycocoevalcap.meteor.meteor")
    assert meteor.counts(captions(ODD[2:])).tolist() == [list(row) for row in METEOR.values()]


def test_meteor_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"METEOR needs the package 'pycocoevalcap': pip install 'chiasm\[meteor\]'"):
        meteor.counts(captions(ODD))
    monkeypatch.undo()
    pytest.importorskip("pycocoevalcap.meteor.meteor")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(meteor.MeteorFailed, match="there is no 'java'"):
        meteor.counts(captions(ODD))


def test_an_item_needs_a_reference() -> None:
    with pytest.raises(DataError, match="item 1 has no reference"):
        TokenizedCaptions(["a", "b"], [["a"], []])
    with pytest.raises(DataError, match="2 candidates but references for 1"):
        TokenizedCaptions(["a", "b"], [["a"]])


def test_nothing_but_empty_texts_is_worth_nothing() -> None:
    empty = TokenizedCaptions(["", ""], [["a cat"], ["two dogs"]])
    assert cider(empty).tolist() == rouge_l(empty).tolist() == [0, 0]
    assert bleu.bleu(bleu.counts(empty)).max() < 1e-5
    nothing_right = TokenizedCaptions(["no word", "is there"], [["a cat"], ["two dogs"]])
    assert cider(nothing_right).tolist() == rouge_l(nothing_right).tolist() == [0, 0]


def test_the_medoid_has_the_highest_mean_cosine() -> None:
    texts = [text for first, others in photos()[:40] for text in (first, *others)] + [""]
    tokens = [tokenize(text) for text in texts]
    words = sorted(set(chain.from_iterable(tokens)))
    rows = np.array([[line.count(word) for word in words] for line in tokens], float)
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    assert medoid(texts) == texts[int((unit @ unit.T).mean(axis=1).argmax())]
