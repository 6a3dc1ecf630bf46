"""Generation against transformers on one tiny random Llama: greedy, beams, bounds of sampling, likelihoods."""

from functools import cache
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation import logits_process as theirs

from chiasm.errors import DataError, RecipeError
from chiasm.generation.beams import _advance, _Search, beam_search
from chiasm.generation.cache import Cache
from chiasm.generation.choosing import Sampling, bounded, choose, penalised
from chiasm.generation.likelihood import log_likelihoods
from chiasm.generation.prompt import Prompt, read
from chiasm.generation.tokens import continuations, stream
from chiasm.nn.decoder import Decoder, Packed, positions_of
from chiasm.nn.decoders import llama
from chiasm.weights.mapping import take_tensors
from chiasm.weights.transformers._language import decoder_rules
from tests import peers  # noqa: F401  # before any class of transformers is touched

END, WORDS = 5, 97
ROWS = [[3, 4, 5, 6, 7], [9, 2], [8, 8, 8, 8, 1, 2, 3, 4], [11]]


@cache
def pair(window: int | None = None) -> tuple[Decoder, Any]:
    """A decoder and the model of transformers with the same weights."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": WORDS,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "initializer_range": 0.5,
        "max_position_embeddings": 64,
        "sliding_window": window,
        "rms_norm_eps": 1e-6,
    }
    config = transformers.MistralConfig(**sizes)
    config._attn_implementation = "eager"
    peer = transformers.MistralForCausalLM(config).eval()
    ours = llama.Config(WORDS, 48, 3, 6, 2, 80, 64, epsilon=1e-6, window=window)
    table = decoder_rules("", "model.", ours, "lm_head.weight")
    return take_tensors(ours.build(), table, peer.state_dict(), "the peer").eval(), peer


def ended(_row: int, tokens: list[int]) -> bool:
    return tokens[-1] == END


def said_by_peer(peer: Any, row: list[int], count: int, **how: Any) -> list[int]:
    settings = {"max_new_tokens": count, "do_sample": False, "eos_token_id": END, "pad_token_id": 0} | how
    return list(peer.generate(torch.tensor([row]), **settings)[0, len(row) :].tolist())


@pytest.mark.parametrize("window", [None, 4])
def test_greedy_answers_of_mixed_lengths_are_those_of_transformers_one_by_one(window: int | None) -> None:
    decoder, peer = pair(window)
    together = continuations(decoder, Prompt.of_ids(decoder, ROWS), 16, ended)
    assert together == [said_by_peer(peer, row, 16) for row in ROWS]


@pytest.mark.parametrize("beams", [2, 5])
@pytest.mark.parametrize(("penalty", "window"), [(1.0, None), (0.3, None), (1.0, 4)])
def test_beams_are_those_of_transformers(beams: int, penalty: float, window: int | None) -> None:
    decoder, peer = pair(window)
    found = beam_search(decoder, Prompt.of_ids(decoder, ROWS), 12, ended, beams, penalty)
    assert found == [said_by_peer(peer, row, 12, num_beams=beams, length_penalty=penalty) for row in ROWS]


def test_beams_that_may_end_by_many_tokens_are_those_of_transformers() -> None:
    decoder, peer = pair()
    ends = [token for token in range(WORDS) if token % 4]
    found = beam_search(decoder, Prompt.of_ids(decoder, ROWS), 12, lambda _row, new: new[-1] in ends, 3, 3.0)
    assert found == [said_by_peer(peer, row, 12, num_beams=3, length_penalty=3.0, eos_token_id=ends) for row in ROWS]


@given(st.integers(0, 99), st.integers(1, 4), st.integers(1, 11))
def test_as_many_beams_go_on_however_many_tokens_end_one(seed: int, beams: int, ends: int) -> None:
    scores_RV = torch.randn(beams, 12, generator=torch.Generator().manual_seed(seed))
    begun = _Search([(-0.5 * beam, [99 - beam]) for beam in range(beams)])
    grown = [
        (begun.live[beam][0] + chance, [99 - beam, token])
        for beam, row in enumerate(scores_RV.log_softmax(-1).tolist())
        for token, chance in enumerate(row)
        if token >= ends
    ]
    best = sorted(grown, reverse=True)[:beams]
    (origins,) = _advance([begun], [0], scores_RV, 2, lambda _row, new: new[-1] < ends, beams, 1.0)
    alive = [one for one in begun.live if one[0] > -torch.inf]
    assert [tokens for _, tokens in alive] == [tokens for _, tokens in best]
    assert [chance for chance, _ in alive] == pytest.approx([chance for chance, _ in best], abs=1e-5)
    assert origins[: len(best)] == [99 - tokens[0] for _, tokens in best]
    assert len(begun.live) == len(origins) == beams


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    decoder, peer = pair()
    sampling = Sampling(repetition_penalty=1.7)
    found = continuations(decoder, Prompt.of_ids(decoder, ROWS), 12, ended, sampling)
    assert found == [said_by_peer(peer, row, 12, repetition_penalty=1.7) for row in ROWS]
    scores = torch.randn(2, WORDS)
    held = [[1, 2, 2], [90]]
    ids = torch.tensor([[1, 2, 2], [90, 90, 90]])
    assert torch.equal(penalised(scores, held, 1.3), theirs.RepetitionPenaltyLogitsProcessor(1.3)(ids, scores.clone()))


@given(
    temperature=st.floats(0.2, 3),
    top_k=st.integers(0, 20),
    top_p=st.floats(0.05, 1),
    min_p=st.floats(0, 0.9),
    seed=st.integers(0, 99),
)
def test_the_bounds_of_sampling_are_those_of_transformers(
    temperature: float, top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    scores = torch.randn(3, 50, generator=torch.Generator().manual_seed(seed)) * 3
    warped = theirs.TemperatureLogitsWarper(temperature)(torch.zeros(3, 1), scores)
    if top_k:
        warped = theirs.TopKLogitsWarper(top_k)(torch.zeros(3, 1), warped)
    if top_p < 1:
        warped = theirs.TopPLogitsWarper(top_p)(torch.zeros(3, 1), warped)
    if min_p > 0:
        warped = theirs.MinPLogitsWarper(min_p)(torch.zeros(3, 1), warped)
    found = bounded(scores, Sampling(temperature, top_k, top_p, min_p))
    differing = found.isinf() != warped.isinf()
    # Shares are summed from the other end there: a token just at the bound may fall on either side.
    assert differing.sum() <= 1
    assert torch.allclose(found[~differing & ~warped.isinf()], warped[~differing & ~warped.isinf()], atol=1e-5)


def test_draws_follow_the_probabilities_and_the_seed() -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0]]).expand(20_000, 3)
    drawn = choose(scores, Sampling(temperature=1.0), torch.Generator().manual_seed(1))
    shares = torch.bincount(drawn, minlength=3) / len(drawn)
    assert torch.allclose(shares, scores[0].softmax(0), atol=0.015)
    decoder, _ = pair()
    prompt = Prompt.of_ids(decoder, ROWS)
    one, same, other = (
        continuations(decoder, prompt, 10, ended, Sampling(temperature=1.0, seed=seed)) for seed in (3, 3, 4)
    )
    assert one == same
    assert one != other


def test_a_beginning_that_is_shared_changes_nothing() -> None:
    decoder, _ = pair()
    begin, ends = [7, 3, 9, 1], [[2], [4, 4, 4], [8, 1]]
    cache = Cache.empty(decoder, 1, 4)
    with torch.inference_mode():
        read(decoder, Prompt.of_ids(decoder, [begin]), cache)
    spread = cache.spread([0, 0, 0], 4)
    rest = Prompt.after(decoder, ends, [4, 4, 4])
    found: list[list[int]] = [[], [], []]
    for step in stream(decoder, rest, 9, ended, None, spread):
        for row, token in step.items():
            found[row].append(token)
    assert found == continuations(decoder, Prompt.of_ids(decoder, [begin + end for end in ends]), 9, ended)


@pytest.mark.parametrize("window", [None, 3])
def test_many_answers_on_one_beginning_have_the_likelihoods_of_transformers(window: int | None) -> None:
    decoder, peer = pair(window)
    answers = [[1], [2, 3, 4], [9, 9], [4] * 7]
    found = log_likelihoods(decoder, Prompt.of_ids(decoder, ROWS[2:3]), answers)
    for answer, likelihood in zip(answers, found, strict=True):
        with torch.no_grad():
            chances = peer(torch.tensor([ROWS[2] + answer])).logits[0].log_softmax(-1)
        places = range(len(ROWS[2]) - 1, len(ROWS[2]) + len(answer) - 1)
        expected = sum(chances[at, token].item() for at, token in zip(places, answer, strict=True))
        assert likelihood.item() == pytest.approx(expected, abs=1e-4)


def test_packed_sequences_do_not_see_each_other() -> None:
    decoder, _ = pair()
    lengths = [len(row) for row in ROWS]
    flat = torch.tensor([token for row in ROWS for token in row])
    x_TD = decoder.embed(flat).detach().requires_grad_()
    h_TD = decoder(x_TD, positions_of(lengths), Packed(lengths))
    (grad_TD,) = torch.autograd.grad(h_TD[lengths[0] : lengths[0] + lengths[1]].square().sum(), x_TD)
    reached = grad_TD.abs().sum(1) > 0
    expected = torch.zeros(len(flat), dtype=torch.bool)
    expected[lengths[0] : lengths[0] + lengths[1]] = True
    assert torch.equal(reached, expected)


def test_a_full_context_ends_an_answer_and_a_longer_prompt_is_an_error() -> None:
    decoder, _ = pair()
    row = [1] * (decoder.context - 3)
    (found,) = continuations(decoder, Prompt.of_ids(decoder, [row]), 50, lambda _row, _tokens: False)
    assert len(found) == 4  # three fill the context; the last follows from them and is not read again
    beyond = beam_search(decoder, Prompt.of_ids(decoder, [row, [3]]), 50, lambda _row, _tokens: False, 3)
    assert [len(one) for one in beyond] == [4, 50]
    alone = beam_search(decoder, Prompt.of_ids(decoder, [[3]]), 50, lambda _row, _tokens: False, 3)
    assert beyond[1:] == alone
    with pytest.raises(DataError, match="beyond the model's context of 64"):
        continuations(decoder, Prompt.of_ids(decoder, [[1] * 65]), 5, ended)
    with pytest.raises(DataError, match="row 1 is empty"):
        continuations(decoder, Prompt.of_ids(decoder, [[1], []]), 5, ended)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(RecipeError, match="must not be negative"):
        Sampling(temperature=-1)
    with pytest.raises(RecipeError, match="are shares"):
        Sampling(top_p=0)
