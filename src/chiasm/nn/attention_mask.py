"""Which tokens of a sequence attend to which: causal, with blocks within which attention goes both ways.

Every token attends to itself and to what stands before it. Tokens of one block attend to each other besides, whichever
comes first. With the prompt as a block this is a prefix language model (Raffel et al. 2020, arXiv:1910.10683, figure 4;
PaliGemma, arXiv:2407.07726, section 3.2), with a block for each picture it is Gemma 3's, with one block for all of a
sequence it is an encoder's. Three tokens of a prompt and two of the answer, blocks (0, 0, 0, -1, -1):

    attends to   a  b  c  D  E
             a   x  x  x
             b   x  x  x
             c   x  x  x
             D   x  x  x  x
             E   x  x  x  x  x

Shapes: T queries, the last of S keys."""

from __future__ import annotations

import torch
from torch import Tensor

from chiasm.data.attention_blocks import CAUSAL


def attention_mask(
    queries: int, keys: int, device: torch.device, window: int | None = None, blocks_S: Tensor | None = None
) -> Tensor | None:
    """(T, S), True where the last T of S tokens may attend; None where no mask is needed: all queries are causal with
    as many keys as queries, or there is only one.

    window: a token attends to only so many tokens up to and including itself, and to its block. blocks_S: which block
    each token is in, CAUSAL for none; None where no token is in any.
    """
    narrow = window is not None and window < keys
    if not narrow and blocks_S is None and (queries == keys or queries == 1):
        return None
    query = torch.arange(keys - queries, keys, device=device)[:, None]
    key = torch.arange(keys, device=device)
    mask = key <= query
    if narrow:
        assert window is not None
        mask &= key > query - window
    if blocks_S is not None:
        mask |= (blocks_S[keys - queries :, None] == blocks_S) & (blocks_S != CAUSAL)
    return mask


def cuts_block(blocks_S: Tensor, at: int) -> bool:
    """Whether a token before place `at` of a sequence sees one at or after it, so that they cannot be read apart."""
    before, after = blocks_S[:at], blocks_S[at:]
    return bool(torch.isin(before[before != CAUSAL], after).any())
