"""Attention within blocks both ways, against transformers' masks and by what reaches what."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import masking_utils as theirs

from chiasm.data.attention_blocks import CAUSAL, prefix_blocks
from chiasm.generation.cache import Cache
from chiasm.generation.prompt import Prompt, read
from chiasm.nn.attention_mask import attention_mask, cuts_block
from chiasm.nn.decoder import Packed
from tests import peers  # noqa: F401  # before any class of transformers is touched
from tests.generation.test_generation import pair

BLOCKS = st.lists(st.integers(CAUSAL, 2), min_size=1, max_size=9).map(torch.tensor)


@given(BLOCKS, st.none() | st.integers(1, 9), st.integers(0, 8))
def test_masks_are_those_of_transformers(blocks: torch.Tensor, window: int | None, before: int) -> None:
    keys, first = len(blocks), min(before, len(blocks) - 1)
    causal = theirs.causal_mask_function if window is None else theirs.sliding_window_causal_mask_function(window)
    sees = theirs.or_masks(causal, theirs.blockwise_overlay(blocks[None]))
    expected = torch.tensor(
        [
            [bool(sees(0, 0, torch.tensor(query), torch.tensor(key))) for key in range(keys)]
            for query in range(first, keys)
        ]
    )
    found = attention_mask(keys - first, keys, torch.device("cpu"), window, blocks)
    assert found is not None
    assert torch.equal(found, expected)
    assert cuts_block(blocks, first) == any(
        blocks[query] != CAUSAL and blocks[query] == blocks[key] for query in range(first) for key in range(first, keys)
    )


def test_a_prefix_is_a_block_of_its_sequence() -> None:
    assert prefix_blocks([2, 0, 3], [4, 1, 3]).tolist() == [0, 0, -1, -1, -1, 0, 0, 0]
    assert prefix_blocks([], []).tolist() == []


@pytest.mark.parametrize("window", [None, 3])
def test_a_token_reaches_whom_the_mask_lets_see_it(window: int | None) -> None:
    """By gradients through whole decoders, over a packed stream: what another token's embedding changes."""
    decoder, _ = pair(window)
    lengths, prefixes = [6, 1, 4], [4, 1, 0]
    blocks_T = prefix_blocks(prefixes, lengths)
    prompt = Prompt.of_ids(decoder, [[3, 4, 5, 6, 7, 8], [9], [1, 2, 3, 4]])
    x_TD = prompt.x_TD.detach().requires_grad_()

    def reaching(blocks: torch.Tensor | None) -> torch.Tensor:
        h_TD = decoder(x_TD, prompt.positions, Packed(lengths, None, blocks))
        rows = [torch.autograd.grad(h_D.square().sum(), x_TD, retain_graph=True)[0].norm(dim=1) > 0 for h_D in h_TD]
        return torch.stack(rows)

    seen = torch.zeros(11, 11, dtype=torch.bool)
    starts = [0, 6, 7]
    for start, length, prefix in zip(starts, lengths, prefixes, strict=True):
        for query in range(length):
            end = max(prefix if query < prefix else 0, query + 1)
            first = 0 if window is None else max(0, query - 3 * (window - 1))  # through three layers
            first = 0 if first < prefix else first  # by way of the prefix
            seen[start + query, start + first : start + end] = True
    assert torch.equal(reaching(blocks_T), seen)
    assert not torch.equal(reaching(None), seen), "a causal mask would not do"


def test_a_prefix_in_a_cache_is_read_as_in_a_packed_stream() -> None:
    decoder, _ = pair()
    ids = [[3, 4, 5, 6, 7], [9, 2], [11]]
    prompt = Prompt.of_ids(decoder, ids)
    blocks_T = prefix_blocks([5, 2, 1], [5, 2, 1])
    whole = Prompt(prompt.x_TD, prompt.lengths, prompt.positions, prompt.ends, prompt.ids, None, blocks_T)
    cache = Cache.empty(decoder, 3, 8)
    scores = read(decoder, whole, cache)
    h_TD = decoder(prompt.x_TD, prompt.positions, Packed(prompt.lengths, None, blocks_T))
    torch.testing.assert_close(scores, decoder.logits(h_TD[torch.tensor([4, 6, 7])]))
    assert not torch.allclose(scores, read(decoder, prompt, Cache.empty(decoder, 3, 8)))
    assert whole.heads([5, 0, 1]).lengths == (5, 0, 1)
    with pytest.raises(ValueError, match="the first 3 of 5 tokens see others"):
        whole.heads([3, 2, 1])
