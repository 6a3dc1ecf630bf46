"""Constrained decoding against transformers' `prefix_allowed_tokens_fn`, and answers that are one of several."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from chiasm.errors import DataError
from chiasm.generation.beams import beam_search
from chiasm.generation.choosing import Sampling
from chiasm.generation.constraints import Choices
from chiasm.generation.likelihood import log_likelihoods
from chiasm.generation.prompt import Prompt
from chiasm.generation.tokens import continuations
from tests.generation.test_generation import END, ROWS, WORDS, ended, pair, said_by_peer


def followers(last: int) -> list[int]:
    """Tokens that may follow one, whose number they are apart from by a multiple of 7; and the end, after even ones."""
    return [token for token in range(WORDS) if (token - last) % 7 in (0, 3)] + [END] * (last % 2 == 0)


def allowed(row: int, tokens: Sequence[int]) -> Tensor | None:
    if row == 1 and not tokens:
        return None
    mask = torch.zeros(WORDS, dtype=torch.bool)
    mask[followers(tokens[-1] if tokens else ROWS[row][-1])] = True
    return mask


@pytest.mark.parametrize("beams", [1, 2, 4])
def test_what_may_follow_is_as_in_transformers(beams: int) -> None:
    decoder, peer = pair()
    prompt = Prompt.of_ids(decoder, ROWS)
    if beams == 1:
        found = continuations(decoder, prompt, 12, ended, allowed=allowed)
    else:
        found = beam_search(decoder, prompt, 12, ended, beams, allowed=allowed)
    free = list(range(WORDS))
    expected = []
    for at, row in enumerate(ROWS):

        def theirs(_batch: int, ids: Tensor, at: int = at, row: list[int] = row) -> list[int]:
            return free if at == 1 and len(ids) == len(row) else followers(int(ids[-1]))

        expected.append(said_by_peer(peer, row, 12, num_beams=beams, prefix_allowed_tokens_fn=theirs))
    assert found == expected
    assert found != continuations(decoder, prompt, 12, ended), "what is always allowed proves nothing"


CHOICES = [[7, 8, END], [7, END], [60, 61, 62, 63, END], [60, 8, END]]


def test_an_answer_is_one_of_the_choices() -> None:
    decoder, _ = pair()
    prompt, choices = Prompt.of_ids(decoder, ROWS), Choices(CHOICES, WORDS)
    greedy = continuations(decoder, prompt, 8, ended, allowed=choices)
    assert all(answer in CHOICES for answer in greedy)
    drawn = [
        tuple(answer)
        for seed in range(40)
        for answer in continuations(decoder, prompt, 8, ended, Sampling(3.0, seed=seed), choices)
    ]
    assert {*drawn} == {tuple(choice) for choice in CHOICES}


def test_as_many_beams_as_choices_find_the_likeliest() -> None:
    decoder, _ = pair()
    for row in ROWS:
        prompt = Prompt.of_ids(decoder, [row])
        likely = CHOICES[int(log_likelihoods(decoder, prompt, CHOICES).argmax())]
        found = beam_search(decoder, prompt, 8, ended, len(CHOICES), 0.0, Choices(CHOICES, WORDS))
        assert found == [likely]


def test_where_nothing_may_follow_is_an_error() -> None:
    decoder, _ = pair()
    prompt = Prompt.of_ids(decoder, ROWS[:1])
    with pytest.raises(DataError, match=r"no token may follow \[7\]"):
        continuations(decoder, prompt, 8, ended, allowed=Choices([[7]], WORDS))
    for choices in ([], [[1], []]):
        with pytest.raises(DataError, match="at least one choice, and none may be empty"):
            Choices(choices, WORDS)
