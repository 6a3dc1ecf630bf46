"""Files of ranks beside the byte pairs that they were made from."""

import base64
import functools
import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers, trainers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from chiasm.errors import CheckpointError
from chiasm.weights.ranks import read_ranks, write_ranks

TEXTS = (
    "What is in the picture? Two dogs, a red ball, 1234 stars and a man who's reading.",
    "The answer is yes; there are 3 of them, left of the table.  Twice   the blanks.",
    "图片里有什么。两只狗和一个红球。猫坐在桌子上。",
    "def f(x):\n    return x + 1\n\n\nprint(f(2))",
)
SPECIALS = ("<|endoftext|>", "<img>", "</img>", "<imgpad>")
# As transformers' files of Qwen2, which has the same byte pairs, have it.
WORDS = (
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+"
    "|\\s+(?!\\S)|\\s+"
)


@functools.cache
def trained() -> str:
    """Byte pairs that `tokenizers` learned, as JSON: ids follow the order of merging."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    return backend.to_str()


def write(file: Path) -> tokenizers.Tokenizer:
    """The file of ranks of `trained`, by transformers' table of bytes and letters."""
    backend = tokenizers.Tokenizer.from_str(trained())
    known = {letter: bytes([byte]) for byte, letter in bytes_to_unicode().items()}
    tokens = sorted(backend.get_vocab().items(), key=lambda entry: entry[1])
    lines = [f"{base64.b64encode(b''.join(known[letter] for letter in token)).decode()} {at}" for token, at in tokens]
    file.write_text("\n".join(lines) + "\n")
    return backend


def test_merges_follow_from_ranks(tmp_path: Path) -> None:
    theirs = write(tmp_path / "qwen.tiktoken")
    ours = read_ranks(tmp_path / "qwen.tiktoken", SPECIALS)
    assert json.loads(ours.to_str())["model"]["merges"] == json.loads(theirs.to_str())["model"]["merges"]
    for text in (*TEXTS, "they've read 56 books\r\n\tin Zürich e\u0301 😀 狗狗", "", " ", "  a", "DOG's"):
        assert ours.encode(text).ids == theirs.encode(text).ids, text
    assert ours.token_to_id("<|endoftext|>") == theirs.get_vocab_size()
    assert ours.encode("a<img><imgpad></img>b").ids[1:4] == [theirs.get_vocab_size() + at for at in (1, 3, 2)]
    assert ours.decode(ours.encode("狗 a <img>dog").ids) == "狗 a dog"


def test_what_we_write_is_what_we_read(tmp_path: Path) -> None:
    write(tmp_path / "theirs")
    ours = read_ranks(tmp_path / "theirs", SPECIALS)
    write_ranks(ours, SPECIALS, tmp_path / "ours")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    other = tokenizers.Tokenizer.from_str(trained())
    with pytest.raises(CheckpointError, match="it is not one of Qwen's kind"):
        write_ranks(other, SPECIALS, tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_what_is_no_file_of_ranks_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "qwen.tiktoken"
    write(file)
    lines = file.read_text().splitlines()
    file.write_text("\n".join(["hello", *lines]))
    with pytest.raises(CheckpointError, match="does not hold a token and its rank in each line"):
        read_ranks(file, SPECIALS)
    file.write_text("\n".join(lines[1:]))
    with pytest.raises(CheckpointError, match="does not rank tokens from 0 on"):
        read_ranks(file, SPECIALS)
    odd = base64.b64encode(b"qzqzqz").decode()
    file.write_text("\n".join([*lines, f"{odd} {len(lines)}"]))
    with pytest.raises(CheckpointError, match="no merge of tokens of lower rank makes the token b'qzqzqz'"):
        read_ranks(file, SPECIALS)
