from __future__ import annotations

from pathlib import Path

import pytest

from chiasm.data.tokenizer import END, START, TextTransform, Tokenizer, learn_tokenizer
from chiasm.errors import CheckpointError, RecipeError

TEXTS = ["a red square left of a blue circle", "two green stars", "no triangle at all"] * 3


def _tokenizer(**rules: object) -> Tokenizer:
    return Tokenizer(learn_tokenizer(TEXTS, 300), TextTransform(**rules))  # type: ignore[arg-type]


def test_texts_come_back_whole_in_any_language() -> None:
    tokenizer = _tokenizer()
    texts = ["two green stars", "grüne sterne, 星, 🌟!", ""]
    tokens = tokenizer(texts)
    assert [tokenizer.decode(ids).strip() for ids in tokens.ids_BT] == texts


def test_each_text_is_marked_and_padded_to_the_longest() -> None:
    tokenizer = _tokenizer()
    tokens = tokenizer(["two green stars", "two"])
    start, end = tokenizer.backend.token_to_id(START), tokenizer.backend.token_to_id(END)
    assert tokens.ids_BT.shape[1] == tokens.lengths_B.max()
    for row, length in zip(tokens.ids_BT, tokens.lengths_B, strict=True):
        assert row[0] == start
        assert row[length - 1] == end
        assert (row[length:] == 0).all()
    assert tokens.mask_BT.sum(1).tolist() == tokens.lengths_B.tolist()
    assert tokens.target_BT.equal(tokens.mask_BT)


def test_long_texts_are_cut_and_keep_their_end_mark() -> None:
    tokenizer = _tokenizer(context=6)
    tokens = tokenizer(TEXTS)
    assert tokens.ids_BT.shape[1] == 6
    assert tokens.ids_BT[0, 5] == tokenizer.backend.token_to_id(END)
    assert tokenizer.is_cut("a red square left of a blue circle, again and again")
    assert not tokenizer.is_cut("two")


def test_padding_to_the_context() -> None:
    assert _tokenizer(context=24, padding="context")(["two"]).ids_BT.shape == (1, 24)


def test_letter_case_does_not_matter() -> None:
    tokenizer = _tokenizer()
    assert tokenizer(["Two GREEN Stars"]).ids_BT.equal(tokenizer(["two green stars"]).ids_BT)


def test_a_tokenizer_survives_its_folder(tmp_path: Path) -> None:
    tokenizer = _tokenizer(context=9)
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path, tokenizer.rules)
    assert again(TEXTS).ids_BT.equal(tokenizer(TEXTS).ids_BT)


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="at least 259 tokens"):
        learn_tokenizer(TEXTS, 100)
    with pytest.raises(RecipeError, match="pad_id 999 lies outside"):
        _tokenizer(pad_id=999)
    with pytest.raises(CheckpointError, match="there is no tokenizer at"):
        Tokenizer.load(tmp_path, TextTransform())
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"is not a tokenizer\.json"):
        Tokenizer.load(tmp_path, TextTransform())
